if(TARGET thurn_data)
  thurn_test_pg(sql SOURCES unit/test_sql.c USES thurn_data)
  thurn_test_pg(sql_pg SOURCES unit/test_sql_pg.c USES thurn_data LIBS PkgConfig::UV Threads::Threads)
endif()
