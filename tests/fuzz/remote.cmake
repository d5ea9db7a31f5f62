if(TARGET thurn_remote)
  thurn_fuzz(smtp_reply USES thurn_remote thurn_base)
  thurn_fuzz(smtp_content USES thurn_remote thurn_base)
endif()
