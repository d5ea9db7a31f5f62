thurn_test(spf SOURCES unit/test_spf.c unit/auth_zone.c USES thurn_mailauth LIBS PkgConfig::YAML)
