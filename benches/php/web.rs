//! A web server for pages in PHP: nginx, and php-fpm behind it.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use roster::net::Address;
use tempfile::TempDir;

use super::scripts;
use crate::harness::{Process, SOON, eventually};
use crate::load;

/// Both end when this is dropped.
pub(super) struct Web {
    fpm: Process,
    nginx: Process,
    address: Address,
    _folder: TempDir,
}

/// What php-fpm is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workers {
    pub(super) count: usize,
    /// Whether each makes one page, so that each page is the first of its process.
    pub(super) are_fresh: bool,
    /// Whether the classes of the PHP package are loaded before all pages.
    pub(super) preload: bool,
}

impl Web {
    /// One that serves the pages of this folder, which find `variables` in `$_SERVER`.
    pub(super) fn start<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>, workers: Workers) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let write = |name: &str, text: String| {
            fs::write(path.join(name), text).expect("the configuration is written");
            path.join(name)
        };
        let mut command = Command::new(format!("/usr/sbin/php-fpm{}", version()));
        // Only root must say whom the workers run as: here they are root too, to reach the folders of the benchmark.
        command.args(["-F", "-R", "-y"]).arg(write("fpm.conf", fpm_configuration(path, workers)));
        if workers.preload {
            command.args(["-d", "opcache.preload_user=root", "-d"]);
            command.arg(format!("opcache.preload={}", scripts().join("../../php/preload.php").display()));
        }
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

    /// What a page says.
    pub(super) fn get(&self, page: &str, query: &[(&str, &str)]) -> String {
        let mut connection = load::connect(&self.address).expect("the web server accepts");
        write!(connection, "GET {} HTTP/1.0\r\n\r\n", uri(page, query)).expect("the request is taken");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        body.to_owned()
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

/// PHP's, such as `8.2`.
pub(super) fn version() -> String {
    let told = Command::new("php").args(["-r", "echo PHP_MAJOR_VERSION, '.', PHP_MINOR_VERSION;"]).output();
    String::from_utf8(told.expect("php starts").stdout).expect("a version")
}

/// A request for this page with this query.
pub(super) fn request(page: &str, query: &[(&str, &str)]) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", uri(page, query)).into()
}

fn uri(page: &str, query: &[(&str, &str)]) -> String {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "+"))).collect();
    format!("/{page}?{}", query.join("&"))
}

fn fpm_configuration(folder: &Path, workers: Workers) -> String {
    let (folder, count, pages) = (folder.display(), workers.count, usize::from(workers.are_fresh));
    // OPcache passes over files that are younger than its protection: the array is.
    format!(
        "[global]\nerror_log = {folder}/fpm.log\n[www]\nuser = root\nlisten = {folder}/fpm.sock\npm = static\n\
         pm.max_children = {count}\npm.max_requests = {pages}\nphp_admin_value[opcache.file_update_protection] = 0\n"
    )
}

fn nginx_configuration<'a>(folder: &Path, variables: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let (folder, pages) = (folder.display(), scripts());
    let mut text = format!("daemon off; master_process off; pid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {folder}/{kind};").expect("a text takes all");
    }
    writeln!(
        text,
        "access_log off; keepalive_requests 1000000000;\nserver {{ listen unix:{folder}/nginx.sock; location / {{\n\
         fastcgi_pass unix:{folder}/fpm.sock; fastcgi_param REQUEST_METHOD GET;\n\
         fastcgi_param QUERY_STRING $query_string; fastcgi_param SCRIPT_FILENAME {}$uri;",
        pages.display()
    )
    .expect("a text takes all");
    for (name, value) in variables {
        writeln!(text, "fastcgi_param {name} {value};").expect("a text takes all");
    }
    text + "}}}\n"
}
