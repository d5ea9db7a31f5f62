thurn_fuzz(sieve USES thurn_sieve thurn_mail)
