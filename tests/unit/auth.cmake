if(TARGET thurn_auth)
  thurn_test_pg(auth SOURCES unit/test_auth.c USES thurn_auth)
  thurn_test_pg(auth_admin SOURCES unit/test_auth_admin.c USES thurn_auth)
endif()
