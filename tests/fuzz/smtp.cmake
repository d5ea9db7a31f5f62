if(TARGET thurn_smtp)
  thurn_fuzz(smtp_parse USES thurn_smtp)
  thurn_fuzz(smtp_data USES thurn_smtp)
endif()
