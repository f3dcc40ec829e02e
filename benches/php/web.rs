//! A web server for pages in PHP: nginx, and php-fpm behind it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use roster::net::Address;
use tempfile::TempDir;

use super::script;
use crate::harness::{Process, SOON, eventually};
use crate::load;

/// Both end when this is dropped.
pub(super) struct Web {
    fpm: Process,
    nginx: Process,
    address: Address,
    _folder: TempDir,
}

impl Web {
    /// One that serves `page.php`, which finds `variables` in `$_SERVER`.
    pub(super) fn start<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>, workers: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let write = |name: &str, text: String| {
            fs::write(path.join(name), text).expect("the configuration is written");
            path.join(name)
        };
        let mut command = Command::new(fpm());
        // Only root must say whom the workers run as: here they are root too, to reach the folders of the benchmark.
        command.args(["-F", "-R", "-y"]).arg(write("fpm.conf", fpm_configuration(path, workers)));
        let fpm = Process::start(command.stderr(Stdio::null()), path);
        let mut command = Command::new("/usr/sbin/nginx");
        let configuration = write("nginx.conf", nginx_configuration(path, variables));
        command.arg("-p").arg(path).arg("-e").arg(path.join("error.log")).arg("-c").arg(configuration);
        let nginx = Process::start(&mut command, path);
        for socket in ["fpm.sock", "nginx.sock"] {
            eventually("the web server accepts", SOON, || load::connect(&Address::Unix(path.join(socket))));
        }
        Self { fpm, nginx, address: Address::Unix(path.join("nginx.sock")), _folder: folder }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// All that serve a page.
    pub(super) fn processes(&self) -> Vec<u32> {
        let master = self.fpm.id();
        let children = format!("/proc/{master}/task/{master}/children");
        let children = fs::read_to_string(children).expect("the workers");
        let workers = children.split_whitespace().map(|id| id.parse().expect("a number"));
        workers.chain([master, self.nginx.id()]).collect()
    }
}

/// A request for the page with this query.
pub(super) fn request(query: &[(&str, &str)]) -> Vec<u8> {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "+"))).collect();
    format!("GET /?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", query.join("&")).into()
}

fn fpm() -> PathBuf {
    let programs = fs::read_dir("/usr/sbin").expect("the folder of servers").flatten();
    let mut found = programs.map(|it| it.path()).filter(|it| it.to_string_lossy().contains("/php-fpm"));
    found.next().expect("php-fpm (has `make bench-deps` been run?)")
}

fn fpm_configuration(folder: &Path, workers: usize) -> String {
    let folder = folder.display();
    // OPcache passes over files that are younger than its protection: the array is.
    format!(
        "[global]\nerror_log = {folder}/fpm.log\n[www]\nuser = root\nlisten = {folder}/fpm.sock\npm = static\n\
         pm.max_children = {workers}\nphp_admin_value[opcache.file_update_protection] = 0\n"
    )
}

fn nginx_configuration<'a>(folder: &Path, variables: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let (folder, page) = (folder.display(), script("page.php"));
    let mut text = format!("daemon off; master_process off; pid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {folder}/{kind};").expect("a text takes all");
    }
    writeln!(
        text,
        "access_log off; keepalive_requests 1000000000;\nserver {{ listen unix:{folder}/nginx.sock; location / {{\n\
         fastcgi_pass unix:{folder}/fpm.sock; fastcgi_param REQUEST_METHOD GET;\n\
         fastcgi_param QUERY_STRING $query_string; fastcgi_param SCRIPT_FILENAME {};",
        page.display()
    )
    .expect("a text takes all");
    for (name, value) in variables {
        writeln!(text, "fastcgi_param {name} {value};").expect("a text takes all");
    }
    text + "}}}\n"
}
