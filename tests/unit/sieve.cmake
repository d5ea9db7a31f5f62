thurn_test(sieve_suite SOURCES unit/test_sieve_suite.c unit/mail_util.c USES thurn_sieve thurn_mail)
thurn_test(sieve SOURCES unit/test_sieve.c USES thurn_sieve thurn_mail)
