thurn_test(spf SOURCES unit/test_spf.c unit/auth_zone.c USES thurn_mailauth LIBS PkgConfig::YAML)
thurn_test(dkim SOURCES unit/test_dkim.c unit/auth_zone.c unit/mail_util.c USES thurn_mailauth)
thurn_test(dmarc SOURCES unit/test_dmarc.c unit/auth_zone.c USES thurn_mailauth)
thurn_test(mailauth_texts SOURCES unit/test_mailauth_texts.c USES thurn_mailauth)
