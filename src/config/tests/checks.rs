//! What a check finds beyond the configuration itself: on this machine, and what may be a mistake.

use super::*;

#[test]
fn what_the_machine_does_not_have_is_a_mistake_for_a_check_alone() {
    let text = "[thrift]\ngroup = 'no such group'\n[[zookeeper]]\nconnect = 'zk'\nroots = ['/zk']\ncredentials = 'none'\n\
                [register]\ntokens = 'env:NOT_SET'\nsigning_key = 'env:PATH'\n[shared]\ngroup = 'nor such'\n\
                [[upstream]]\nconnect = 'hub:1'\ntoken = 'nor this'\n[[file]]\nroot = '/file'\npath = 'nor that'\n";
    let layers = Layers { file: Some(("/nonexistent/roster.toml".into(), text.into())), ..Layers::default() };
    Config::load(&layers).expect("a configuration");
    assert_eq!(
        Config::check(&layers, |doubt| panic!("{doubt}")).expect_err("diagnostics").to_string(),
        "\
/nonexistent/roster.toml:2: thrift.group: there is no group \"no such group\" on this machine
/nonexistent/roster.toml:6: zookeeper.0.credentials: cannot read /nonexistent/none: No such file or directory (os error 2)
/nonexistent/roster.toml:8: register.tokens: cannot read env:NOT_SET: the variable NOT_SET is not set
/nonexistent/roster.toml:11: shared.group: there is no group \"nor such\" on this machine
/nonexistent/roster.toml:14: upstream.0.token: cannot read /nonexistent/nor this: No such file or directory (os error 2)
/nonexistent/roster.toml:17: file.0.path: cannot read /nonexistent/nor that: No such file or directory (os error 2)"
    );
}

#[test]
fn every_flaw_of_credentials_and_of_a_certificate_and_its_key_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("z.cred"), "digest\nnonsense\nu:p\n").expect("written");
    let text = "[[zookeeper]]\nconnect = 'zk'\ncredentials = 'z.cred'\n\
                [register.tls]\ncertificate = 'no.pem'\nkey = 'nor.pem'\n[shared]\nstate = 'state'\n";
    let layers =
        |text: &str| Layers { file: Some((folder.path().join("roster.toml"), text.to_owned())), ..Layers::default() };
    let mut doubts = Vec::new();
    let told = Config::check(&layers(text), |doubt| doubts.push(doubt)).expect_err("diagnostics").to_string();
    let [doubt] = &doubts[..] else { panic!("{doubts:?}") };
    assert!(
        doubt
            .to_string()
            .ends_with("z.cred:3: it begins with no scheme that ZooKeeper knows; write digest:USER:PASSWORD"),
        "{doubt}"
    );
    assert_eq!(
        told.replace(&format!("{}/", folder.path().display()), ""),
        "\
roster.toml:3: zookeeper.0.credentials: z.cred:1: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD
roster.toml:3: zookeeper.0.credentials: z.cred:2: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD
roster.toml:5: register.tls.certificate: cannot use the certificate no.pem: No such file or directory (os error 2)
roster.toml:6: register.tls.key: cannot use the key nor.pem: No such file or directory (os error 2)"
    );
    let lone = layers("[register.tls]\ncertificate = 'no.pem'\n[shared]\nstate = 'state'\n");
    let told = Config::check(&lone, |doubt| panic!("{doubt}")).expect_err("diagnostics").to_string();
    assert!(told.contains("register.tls.certificate: cannot use") && told.contains("register.tls.key: is required"));
}

#[cfg(not(feature = "gssapi"))]
#[test]
fn kerberos_in_a_build_without_it_is_a_mistake_for_a_check_that_names_the_build_that_has_it() {
    let text = "[[zookeeper]]\nconnect = 'zk'\n[zookeeper.kerberos]\nkeytab = 'none'\n[register]\nlisten = ''\n";
    let layers = Layers { file: Some(("/nonexistent/roster.toml".into(), text.into())), ..Layers::default() };
    Config::load(&layers).expect("a configuration");
    assert_eq!(
        Config::check(&layers, |doubt| panic!("{doubt}")).expect_err("a diagnostic").to_string(),
        "/nonexistent/roster.toml:3: zookeeper.0.kerberos: this build has no Kerberos, nor has the \
         package for Debian: build one that has it with `cargo build --release --features gssapi`"
    );
}

#[test]
fn tokens_with_which_no_register_starts_are_a_mistake_for_a_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |register: &str, tokens: &str| {
        std::fs::write(folder.path().join("tokens"), tokens).expect("written");
        let text = format!("[register]\n{register}\n[shared]\nstate = 'state'\n");
        let layers = Layers { file: Some((folder.path().join("roster.toml"), text)), ..Layers::default() };
        Config::check(&layers, |doubt| panic!("{doubt}")).map_or_else(|error| error.to_string(), |_| String::new())
    };
    let open = "listen = '0.0.0.0:8010'\ntokens = 'tokens'";
    assert!(check(open, "register-center-token-2024\n").contains("roster.toml:3: register.tokens: "));
    assert!(check(open, "short\n").contains("fewer than 16 bytes"));
    assert!(check(open, "# none\n").contains("is empty"));
    assert_eq!(check(open, "0123456789abcdef\n"), "");
    assert_eq!(check("tokens = 'tokens'", "short\n"), "", "on loopback");
    assert_eq!(check("listen = '0.0.0.0:8010'", ""), "", "a token can be made");
    let layers = Layers { flags: vec![("shared.state".into(), "/proc/none/at-all".into())], ..Layers::default() };
    let nowhere = Config::check(&layers, |_| {}).expect_err("a diagnostic").to_string();
    assert!(nowhere.contains("no token can be made in /proc/none/at-all/register.token"), "{nowhere}");
}

/// What a check reports about a file in a folder, without the folder's name.
fn checked(folder: &Path, text: &str) -> String {
    let layers = Layers { file: Some((folder.join("roster.toml"), text.to_owned())), ..Layers::default() };
    let mut told = Vec::new();
    let diagnostics = Config::check(&layers, |doubt| told.push(format!("warning: {doubt}"))).err();
    told.extend(diagnostics.map(|diagnostics| diagnostics.to_string()));
    told.join("\n").replace(&format!("{}/", folder.display()), "")
}

#[test]
fn a_check_refuses_what_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    std::fs::write(path.join("file"), "").expect("written");
    std::fs::write(path.join("tree.toml"), "[nodes]\n'/other' = ''\n").expect("written");
    let checked = |text: &str| checked(path, &format!("{text}\n[shared]\nstate = 'state'\n"));
    assert_eq!(
        checked("[thrift]\ntcp = '127.0.0.1:8010'"),
        "roster.toml: register.listen: is \"127.0.0.1:8010\", where `thrift.tcp` listens too: give each a port of its own"
    );
    assert!(checked("[thrift]\ntcp = 'localhost:9'\n[register]\nlisten = '0.0.0.0:9'").contains("a port of its own"));
    assert_eq!(checked("[thrift]\ntcp = '127.0.0.1:0'\n[register]\nlisten = '127.0.0.1:0'"), "");
    assert_eq!(
        checked(&format!("[thrift]\nunix = '{0}/s'\n[register]\nunix = '{0}/s'", path.display())),
        "roster.toml:4: register.unix: is the socket of `thrift.unix` too: give each one of its own"
    );
    assert_eq!(
        checked(&format!("[thrift]\nunix = '{}/file/roster.sock'", path.display())),
        "roster.toml:2: thrift.unix: no socket can be made in file: it is no folder; choose another, or have it made"
    );
    assert!(checked("[thrift]\nunix = '/proc/none/roster.sock'").contains("no folder can be made in /proc: "));
    assert_eq!(
        checked("[[file]]\npath = 'tree.toml'\nroot = '/app'"),
        "roster.toml:2: file.0.path: tree.toml: `/other` lies outside the file's root /app"
    );
    assert!(checked("[[file]]\npath = 'roster.toml'").contains("file.0.path: cannot read roster.toml"));
    let open = path.join("open");
    std::fs::create_dir(&open).expect("made");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    let told = checked(&format!("[sidecar]\npid_file = '{}/roster.pid'", open.display()));
    assert!(told.starts_with("roster.toml:2: sidecar.pid_file: cannot write open/roster.pid: "), "{told}");
    assert!(told.contains("(mode 0777)"), "{told}");
}

#[test]
fn a_doubt_is_a_warning_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("z.cred"), "u:p\n").expect("written");
    let text = "[[zookeeper]]\nconnect = 'zk'\ncredentials = 'z.cred'\n[register]\nlisten = ''\n";
    assert_eq!(
        checked(folder.path(), text),
        "warning: roster.toml:3: zookeeper.0.credentials: z.cred:1: it begins with no scheme that ZooKeeper knows; write \
         digest:USER:PASSWORD"
    );
}

#[test]
fn a_service_of_a_rule_that_is_mirrored_as_a_path_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[[zookeeper]]\nconnect = 'zk'\nroots = ['/app/config']\n[register]\nlisten = ''\n[shared]\npath = ''\n\
                [[allow]]\nuser = '*'\nread = ['mail', '/app/config', 'config']\n";
    let told = checked(folder.path(), text);
    assert!(told.starts_with("warning: roster.toml:10: allow.0.read: \"config\" is a service; "), "{told}");
    assert!(told.contains("of /app/config, write their path") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_rule_for_all_whom_a_user_namespace_cannot_name_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[register]\nlisten = ''\n[shared]\npath = ''\n[access]\nadmins = ['group:65534']\n\
                [[file]]\npath = 'nodes.toml'\n[[allow]]\nuser = '65534'\nread = ['*']\n[[allow]]\nuser = '33'\n";
    std::fs::write(folder.path().join("nodes.toml"), "[nodes]\n").expect("written");
    let told = checked(folder.path(), text);
    let told: Vec<&str> = told.lines().collect();
    assert!(told.len() == 2 && told.iter().all(|line| line.contains(":65534\" is for nobody")), "{told:?}");
    assert!(told[0].contains("access.admins.0") && told[1].contains("allow.0"), "{told:?}");
}

#[test]
fn a_folder_that_cannot_be_made_for_the_shared_file_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    // Where a sidecar is installed, the default paths belong to its user.
    let own = folder.path().join("roster.sock");
    let text = format!(
        "[thrift]\nunix = {own:?}\n[shared]\nstate = ''\npath = '/proc/no/shared.mdb'\n[register]\nlisten = ''\n"
    );
    let told = checked(folder.path(), &text);
    let expected =
        "warning: roster.toml:5: shared.path: no folder can be made in /proc: it is the kernel's; choose another";
    assert!(told.lines().any(|line| line.starts_with(expected)), "{told}");
}

#[test]
fn a_state_that_cannot_be_kept_and_a_folder_that_a_typo_makes_are_doubts() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().display();
    let text = |state: &str, path: &str| {
        format!(
            "[thrift]\nunix = '{at}/s'\n[shared]\nstate = '{at}/{state}'\npath = '{path}'\n[register]\nlisten = ''\n"
        )
    };
    let told = checked(folder.path(), &text("no/such/state", &format!("{at}/typo/shared.mdb")));
    let mut lines = told.lines();
    let [of_path, of_state] = [lines.next().unwrap_or_default(), lines.next().unwrap_or_default()];
    assert!(of_path.starts_with("warning: roster.toml:5: shared.path: there is no folder "), "{told}");
    assert!(of_state.starts_with("warning: roster.toml:4: shared.state: neither no/such/state nor"), "{told}");
    assert_eq!(lines.next(), None);
    assert_eq!(checked(folder.path(), &text("state", &format!("{at}/shared.mdb"))), "");
}

#[test]
fn a_folder_of_queues_that_cannot_be_made_is_a_doubt() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("file"), "").expect("written");
    let checked = |path: &str| {
        let text = format!(
            "[queue]\npath = '{path}'\n[thrift]\nunix = '{0}/s'\n[shared]\nstate = '{0}/state'\npath = '{0}/shared.mdb'\n\
             [register]\nlisten = ''\n",
            folder.path().display()
        );
        checked(folder.path(), &text)
    };
    assert_eq!(
        checked("/proc/none/queue"),
        "warning: roster.toml:2: queue.path: no folder can be made in /proc: it is the kernel's; choose another, or have \
         it made; until then, the sidecar goes on, and keeps no jobs there"
    );
    assert!(checked("file").contains("roster.toml:2: queue.path: no file can be made in file: it is no folder; "));
    assert_eq!(checked("queue"), "");
}

#[test]
fn the_sidecar_runs_as_the_owner_of_its_socket_else_of_its_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = nix::unistd::geteuid();
    let text = format!("[thrift]\nunix = '{0}/s'\n[shared]\nstate = '{0}/state'\n", folder.path().display());
    let user = || load(&text, &[], &[]).expect("a configuration").sidecar_user();
    assert_eq!(user(), None);
    std::fs::create_dir(folder.path().join("state")).expect("a folder");
    assert_eq!(user(), Some(own));
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("a socket");
    if own.is_root() {
        std::os::unix::fs::chown(folder.path().join("state"), Some(64_900), None).expect("root can");
        assert_eq!(user(), Some(own));
    }
}
