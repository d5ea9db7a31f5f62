thurn_test(mime SOURCES unit/test_mime.c unit/mail_util.c USES thurn_mail)
thurn_test(mail_vectors SOURCES unit/test_mail_vectors.c unit/mail_util.c USES thurn_mail LIBS PkgConfig::JANSSON)
thurn_test(mail SOURCES unit/test_mail.c unit/mail_util.c USES thurn_mail)
thurn_test(downgrade SOURCES unit/test_downgrade.c USES thurn_mail)
