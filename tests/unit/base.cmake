foreach(t str buf arena num map err log clock metrics config)
  thurn_test(${t} SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/test_${t}.c USES thurn_base)
endforeach()
