if(TARGET thurn_auth)
  thurn_test(redis SOURCES unit/test_redis.c unit/redis_peer.c USES thurn_auth thurn_data)
  target_include_directories(test_redis PRIVATE ${CMAKE_SOURCE_DIR}/tests)
endif()
