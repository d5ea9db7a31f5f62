if(TARGET thurn_store)
  thurn_fuzz(change_items USES thurn_store)
endif()
