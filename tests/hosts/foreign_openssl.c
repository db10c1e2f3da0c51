/* Preloaded into a host as libssl.so: another library with OpenSSL's functions, whose symbols have no versions. The dynamic
 * linker then takes them for those of OpenSSL that the module calls. */
#include <stdlib.h>

void *SSL_CTX_new(const void *method) {
  (void)method;
  abort();
}
