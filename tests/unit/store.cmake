if(TARGET thurn_store)
  set(world unit/store_world.c)
  thurn_test_pg(store SOURCES unit/test_store.c ${world} USES thurn_store)
endif()
