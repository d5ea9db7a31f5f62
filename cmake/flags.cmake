# Warnings and hardening for every target. STYLE: gcc and clang clean under -Wall -Wextra -Werror.
# Assertions stay on in production: no NDEBUG.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_RELEASE "-O2")

add_library(thurn_flags INTERFACE)
# Assertions stay on in production: no NDEBUG.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_RELEASE "-O2")
target_compile_options(thurn_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith -Wwrite-strings
  -Wundef -Wformat=2 -Wno-format-nonliteral
  $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>
  -fno-omit-frame-pointer -fstack-clash-protection -fstack-protector-strong -fno-strict-aliasing -fno-common)
target_compile_definitions(thurn_flags INTERFACE _GNU_SOURCE)

if(THURN_SANITIZE)
  # A sanitizer run: no FORTIFY (the interceptors check the same calls), larger frames.
  target_compile_options(thurn_flags INTERFACE -fsanitize=${THURN_SANITIZE} -fno-sanitize-recover=undefined -O1 -g
    -U_FORTIFY_SOURCE)
  target_link_options(thurn_flags INTERFACE -fsanitize=${THURN_SANITIZE})
  target_compile_definitions(thurn_flags INTERFACE THURN_SANITIZED=1 THURN_DEBUG=1)
else()
  target_compile_options(thurn_flags INTERFACE -Wframe-larger-than=8192)
  target_compile_definitions(thurn_flags INTERFACE
    $<$<CONFIG:Debug>:THURN_DEBUG=1> $<$<CONFIG:RelWithDebInfo,Release>:_FORTIFY_SOURCE=3>)
  target_compile_options(thurn_flags INTERFACE -U_FORTIFY_SOURCE $<$<CONFIG:Debug>:-O1>)
endif()
if(THURN_FUZZ)
  target_compile_options(thurn_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
target_link_options(thurn_flags INTERFACE -Wl,-z,relro,-z,now)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
endif()
