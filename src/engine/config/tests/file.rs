use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::{Config, MAX_BYTES, shown_path};
use super::no_env;

/// A directory of this test alone, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nb-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{error}"));
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{error}"));
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The error without the path that every one begins with.
fn problem(path: &Path) -> String {
    let error = match Config::from_file(path, &no_env) {
        Err(error) => error.to_string(),
        Ok(config) => panic!("{config:?}"),
    };
    let start = format!("{}: ", shown_path(path));
    error
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{error}"))
        .to_owned()
}

#[test]
fn a_file_and_a_link_to_it_are_read() {
    let place = Place::new("read");
    let path = place.file(
        "a.yml",
        b"backend_server_monitoring: {targets: [], failure_threshold: 3}",
    );
    let link = place.0.join("link.yml");
    symlink(&path, &link).unwrap_or_else(|error| panic!("{error}"));
    for path in [path, link] {
        let config = Config::from_file(&path, &no_env);
        assert_eq!(config.map(|config| config.policy.failure_threshold), Ok(3));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let place = Place::new("refused");
    assert_eq!(problem(&place.0.join("none.yml")), "no such file");
    assert_eq!(problem(&place.0), "a file expected, got a directory");
    assert_eq!(
        problem(Path::new("/dev/null")),
        "a regular file expected, got a device, pipe or socket"
    );
    let listener = std::os::unix::net::UnixListener::bind(place.0.join("socket"));
    assert!(listener.is_ok());
    assert_eq!(
        problem(&place.0.join("socket")),
        "a regular file expected, got a device, pipe or socket"
    );
    let file = place.file("a.yml", b"");
    assert_eq!(
        problem(&file),
        "line 1: table expected, got an empty document"
    );
    assert!(problem(&file.join("b")).starts_with("cannot be opened: "));
    assert!(problem(Path::new("a\0b")).starts_with("cannot be opened: "));
    assert_eq!(
        problem(&place.file("latin.yml", b"a: \xe4\n")),
        "line 1: byte 4 of it is not UTF-8"
    );
    assert_eq!(
        problem(&place.file("later.yml", b"# \xc3\xa4\nb: 1\nc: '\xff'\n")),
        "line 3: byte 5 of it is not UTF-8"
    );
    assert_eq!(
        problem(&place.file(
            "bad.yml",
            b"\nbackend_server_monitoring: {log: none, targets: 1}\n"
        )),
        "line 2: backend_server_monitoring.targets: list of tables expected, got number 1"
    );
    assert_eq!(
        problem(&place.file("long.yml", &vec![b'#'; MAX_BYTES + 1])),
        "at most 1 MiB expected, got more"
    );
}

#[test]
fn a_file_that_others_own_is_named() {
    let place = Place::new("permission");
    let path = place.file("a.yml", b"backend_server_monitoring: {targets: []}");
    let forbidden = fs::Permissions::from_mode(0o0);
    fs::set_permissions(&path, forbidden).unwrap_or_else(|error| panic!("{error}"));
    // The superuser may read it all the same.
    if fs::read(&path).is_err() {
        assert_eq!(problem(&path), "permission denied");
    }
}

#[test]
fn what_fails_later_has_its_file_and_line() {
    let place = Place::new("origin");
    let path = place.file(
        "a.yml",
        b"backend_server_monitoring:\n  targets: []\n  log: /a/log\n  state_file: /a/state\n",
    );
    let config = Config::from_file(&path, &no_env).unwrap_or_else(|error| panic!("{error}"));
    let start = path.display();
    assert_eq!(
        config.origin.of_log("log: why"),
        format!("{start}: line 3: backend_server_monitoring.log: why")
    );
    assert_eq!(
        config.origin.of_state_file("state_file: why"),
        format!("{start}: line 4: backend_server_monitoring.state_file: why")
    );
    let path = place.file(
        "b.yml",
        b"backend_server_monitoring:\n  targets:\n    - {protocol: imap, host: a.example, tls: true, \
          tls_ca_file: /none}\n",
    );
    let config = Config::from_file(&path, &no_env).and_then(Config::with_files);
    assert_eq!(
        config.map_err(|error| error.0),
        Err(format!(
            "{}: backend_server_monitoring.backend_servers[1].tls_ca_file: /none: no such file",
            path.display()
        ))
    );
    let table = super::accepted("{targets: []}");
    assert_eq!(table.origin.of_log("log: why"), "log: why");
}

/// The same settings elsewhere are the same configuration: nothing is put in force anew.
#[test]
fn where_it_was_written_makes_no_configuration_another() {
    let place = Place::new("same");
    let one = place.file("a.yml", b"backend_server_monitoring: {targets: []}\n");
    let two = place.file("b.yml", b"\n\nbackend_server_monitoring: {targets: []}\n");
    assert_eq!(
        Config::from_file(&one, &no_env),
        Config::from_file(&two, &no_env)
    );
}
