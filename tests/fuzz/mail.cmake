foreach(target downgrade mime address encoded_word date utf7)
  thurn_fuzz(${target} USES thurn_mail)
endforeach()
