thurn_test(mime SOURCES unit/test_mime.c unit/mail_util.c USES thurn_mail)
