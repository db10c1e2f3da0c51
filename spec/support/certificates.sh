#!/usr/bin/env bash
# Makes what TLS tests need in the folder named: an authority that signs (ca.crt), and one file
# NAME.pem each, certificate and key, for servers that
#   good        is right for localhost, 127.0.0.1 and ::1
#   expired     was right until 2020
#   early       will be right from 2090
#   soon        is right, and ends in seven days
#   other       is right for other.example.org only
#   selfsigned  is right, and signed by nobody
#   resigned    is right, and signed by an authority that has the name of twin.crt and another key
set -euo pipefail
mkdir -p "$1"
cd "$1"

here=DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1
curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"

cat >ca.cnf <<'EOT'
[ca]
default_ca = this
[this]
database = index.txt
new_certs_dir = .
certificate = ca.crt
private_key = ca.key
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
EOT
: >index.txt

openssl req -x509 $curve -config ca.cnf -days 30 -keyout ca.key -out ca.crt -subj "/CN=Test authority" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null

sign() { # name, alternative names, first day, last day
    openssl req -new $curve -config ca.cnf -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" \
        -addext "subjectAltName=$2" 2>/dev/null
    openssl ca -batch -config ca.cnf -in "$1.csr" -out "$1.crt" -notext -startdate "$3" -enddate "$4" 2>/dev/null
    cat "$1.crt" "$1.key" >"$1.pem"
}

day() { # days from now
    date -u -d "$1 days" +%y%m%d%H%M%SZ
}

sign good "$here" "$(day -1)" "$(day 30)"
sign expired "$here" 190101000000Z 200101000000Z
sign early "$here" 20900101000000Z 20910101000000Z
sign soon "$here" "$(day -1)" "$(day 7)"
sign other DNS:other.example.org "$(day -1)" "$(day 30)"

openssl req -x509 $curve -config ca.cnf -days 30 -keyout selfsigned.key -out selfsigned.crt \
    -subj /CN=localhost -addext "subjectAltName=$here" 2>/dev/null
cat selfsigned.crt selfsigned.key >selfsigned.pem

# Without identifiers of keys, so that only the signature tells one twin from the other.
bare="-addext subjectKeyIdentifier=none -addext authorityKeyIdentifier=none"
for twin in twin twin-before; do
    openssl req -x509 $curve -config ca.cnf -days 30 -keyout "$twin.key" -out "$twin.crt" -subj "/CN=Twin authority" \
        -addext basicConstraints=critical,CA:TRUE $bare 2>/dev/null
done
printf '%s\n' "subjectAltName=$here" subjectKeyIdentifier=none authorityKeyIdentifier=none >resigned.cnf
openssl req -new $curve -config ca.cnf -keyout resigned.key -out resigned.csr -subj /CN=resigned 2>/dev/null
openssl x509 -req -in resigned.csr -CA twin-before.crt -CAkey twin-before.key -CAcreateserial -days 30 \
    -extfile resigned.cnf -out resigned.crt 2>/dev/null
cat resigned.crt resigned.key >resigned.pem
