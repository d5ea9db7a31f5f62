if(TARGET thurn_imap)
  thurn_fuzz(imap USES thurn_imap)
endif()
