if(TARGET thurn_imap)
  thurn_test(imap_session SOURCES unit/test_imap_session.c USES thurn_imap)
  thurn_test(imap_parse SOURCES unit/test_imap_parse.c USES thurn_imap)
  if(TARGET thurn_store AND TARGET thurn_auth)
    thurn_test_pg(imap SOURCES protocol/imap.c protocol/script.c protocol/words.c USES thurn_imap thurn_store thurn_auth)
    set_tests_properties(unit.imap PROPERTIES TIMEOUT 300) # each script on each database
  endif()
endif()
