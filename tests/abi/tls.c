/* A host with an OpenSSL of its own: it and this library take turns at TLS handshakes with the
 * same server.
 *
 *     tls port ca.crt untrusted.crt [refused]
 *
 * With the last word the library is to refuse TLS, since it would call the host's copy.
 */
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tap.h"

#define TURNS 20

/* The host's handshake. */
static int connects(unsigned port, const char *ca) {
  struct sockaddr_in address;
  int fd = socket(AF_INET, SOCK_STREAM, 0), done;
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  SSL *session;
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  SSL_CTX_load_verify_locations(context, ca, NULL);
  session = SSL_new(context);
  SSL_set_fd(session, fd);
  done = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && SSL_connect(session) == 1;
  SSL_free(session);
  SSL_CTX_free(context);
  close(fd);
  return done;
}

/* The library's. */
static nauthilus_backend_status checks(unsigned port, const char *ca) {
  const nauthilus_backend_setting settings[] = {
      {NAUTHILUS_BACKEND_LITERAL("tls"), NAUTHILUS_BACKEND_LITERAL("true")},
      {NAUTHILUS_BACKEND_LITERAL("tls_ca_file"), {ca, strlen(ca)}}};
  return nauthilus_backend_check(LIT("127.0.0.1"), port, settings, 2, &why);
}

/* Refused in every place, and without a call of the host's functions: its handshakes go on. */
static int refused(unsigned port, const char *ca, int host, int library) {
  char yaml[256];
  CHECK("the library makes no handshake", library == 0);
  STATUS("a check says why", NAUTHILUS_BACKEND_CHECK_FAILED, checks(port, ca));
  CHECK("which is no fault of the server's", strncmp(why.data, "internal: TLS is not possible", 29) == 0);
  printf("# %s\n", why.data);
  snprintf(yaml, sizeof yaml,
           "backend_server_monitoring: {log: none, backend_servers: [{protocol: imap, host: 127.0.0.1, port: 1},"
           " {protocol: imap, host: 127.0.0.1, port: %u, tls: true, tls_skip_verify: true}]}", port);
  STATUS("a configuration with TLS is refused", NAUTHILUS_BACKEND_CONFIGURATION,
         nauthilus_backend_configure_yaml(yaml, strlen(yaml), &why));
  CHECK("it names the target", strstr(why.data, "backend_servers[2].tls: ") != NULL);
  CHECK("and the build that helps", strstr(why.data, "vendored-openssl") != NULL);
  printf("# %s\n", why.data);
  CHECK("the host's own handshakes work", host == TURNS && connects(port, ca));
  return tap_finish();
}

int main(int argc, char **argv) {
  unsigned port = argc > 2 ? (unsigned)atoi(argv[1]) : 0;
  const char *ca = argc > 2 ? argv[2] : "", *untrusted = argc > 3 ? argv[3] : "";
  int turn, host = 0, library = 0;
  printf("# the host's: %s\n", OpenSSL_version(OPENSSL_VERSION));
  for (turn = 0; turn < TURNS; turn++) {
    host += connects(port, ca);
    library += checks(port, ca) == NAUTHILUS_BACKEND_OK;
  }
  CHECK("the host's handshakes work", host == TURNS);
  CHECK("the host does verify", !connects(port, untrusted));
  if (argc > 4) {
    return refused(port, ca, host, library);
  }
  CHECK("the library's handshakes work", library == TURNS);
  STATUS("the library does verify", NAUTHILUS_BACKEND_CHECK_FAILED, checks(port, untrusted));
  CHECK("the reason is the certificate", strncmp(why.data, "tls: ", 5) == 0);
  printf("# %s\n", why.data);
  return tap_finish();
}
