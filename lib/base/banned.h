/*
 * banned.h: C library calls that are easily wrong become compile errors. Each has a better answer in lib/base.
 */
#ifndef BASE_BANNED_H
#define BASE_BANNED_H

#include <stdio.h>
#include <string.h>
#include <time.h>

#define BANNED(name) use_of_##name##_is_banned_see_base_banned_h

#undef strcpy
#define strcpy BANNED(strcpy) /* str and buf */
#undef strcat
#define strcat BANNED(strcat)
#undef strncpy
#define strncpy BANNED(strncpy)
#undef strncat
#define strncat BANNED(strncat)
#undef sprintf
#define sprintf BANNED(sprintf) /* buf_printf, snprintf */
#undef vsprintf
#define vsprintf BANNED(vsprintf)
#undef strtok
#define strtok BANNED(strtok) /* str_split */
#undef gmtime
#define gmtime BANNED(gmtime) /* gmtime_r */
#undef localtime
#define localtime BANNED(localtime)
#undef ctime
#define ctime BANNED(ctime)
#undef asctime
#define asctime BANNED(asctime)
#undef alloca
#define alloca BANNED(alloca)
#undef atoi
#define atoi BANNED(atoi) /* num_u32, num_i64 */
#undef atol
#define atol BANNED(atol)

#endif
