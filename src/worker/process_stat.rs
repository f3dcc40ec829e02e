//! What the kernel says of a process in `/proc/PID/stat` and `/proc/PID/task`, which nobody can delay or make large.

use std::{fs, io};

use nix::libc::{EACCES, ENOENT, EPERM, ESRCH};
use nix::unistd::Pid;

#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessStat {
    pub(super) parent: Pid,
    pub(super) session: Pid,
    /// In ticks since boot.
    pub(super) started: u64,
    /// Whether it has ended, but was not reaped yet.
    is_over: bool,
}

impl ProcessStat {
    /// None: it has ended. An error: unknown, for example without a free descriptor.
    pub(super) fn of(pid: Pid) -> io::Result<Option<Self>> {
        Ok(read(pid)?.and_then(|stat| Self::parse(&stat)).filter(|stat| !stat.is_over))
    }

    fn parse(stat: &str) -> Option<Self> {
        let fields = fields(stat)?;
        let field = |number: usize| fields.get(number - FIRST_FIELD).copied();
        let pid = |number| Some(Pid::from_raw(field(number)?.parse().ok()?));
        let threads: u32 = field(20)?.parse().ok()?;
        Some(Self {
            parent: pid(4)?,
            session: pid(6)?,
            started: field(22)?.parse().ok()?,
            // A process of which only the first thread has ended is called a zombie too.
            is_over: matches!(field(3)?, "Z" | "X") && threads <= 1,
        })
    }
}

/// The number of the first of `fields`.
pub(super) const FIRST_FIELD: usize = 3;

/// The stat of a process; none: there is no such process. A program's name may be invalid UTF-8.
pub(super) fn read(pid: Pid) -> io::Result<Option<String>> {
    Ok(if_any(fs::read(format!("/proc/{pid}/stat")))?.map(|stat| String::from_utf8_lossy(&stat).into_owned()))
}

/// The threads of a process; none: it has ended, or no descriptor is left to look with.
pub(super) fn threads_of(pid: Pid) -> Option<Vec<Pid>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads.map(|thread| Some(Pid::from_raw(thread.ok()?.file_name().to_str()?.parse().ok()?))).collect()
}

/// The children of one of its threads, but for some where others end at the same time. None: as before, or the kernel
/// does not say.
pub(super) fn children_of(pid: Pid, thread: Pid) -> Option<Vec<Pid>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok()?;
    children.split_whitespace().map(|child| Some(Pid::from_raw(child.parse().ok()?))).collect()
}

/// The same of each of its threads.
pub(super) fn children_by_thread(pid: Pid) -> Option<impl Iterator<Item = Option<Vec<Pid>>>> {
    Some(threads_of(pid)?.into_iter().map(move |thread| children_of(pid, thread)))
}

/// What was read of a process; none: it has ended, maybe meanwhile, or is another user's and hidden.
pub(super) fn if_any<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.raw_os_error(), Some(ENOENT | ESRCH | EACCES | EPERM)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields as proc_pid_stat(5) numbers them, from the third on: the name before may contain anything, even `) 1 (`.
pub(super) fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_whose_name_is_no_text_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
        std::os::unix::fs::symlink("/bin/sleep", &program).expect("a link");
        let mut child = Command::new(&program).arg0("sleep").arg("60").spawn().expect("it starts");
        let stat = ProcessStat::of(Pid::from_raw(child.id() as i32));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        assert_eq!(stat.expect("it is told").expect("it lives").parent, Pid::this());
    }

    #[test]
    fn a_process_is_told_by_its_fields_whatever_its_name() {
        let stat = |state: &str, threads: u32| {
            let text =
                format!("77 (a) Z 1 (b) {state} 12 77 70 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4711 9 9");
            ProcessStat::parse(&text).expect("a process")
        };
        let running = stat("S", 1);
        assert_eq!((running.parent, running.session), (Pid::from_raw(12), Pid::from_raw(70)));
        assert_eq!((running.started, running.is_over), (4_711, false));
        assert!(stat("Z", 1).is_over && stat("Z", 0).is_over);
        assert!(!stat("Z", 3).is_over, "its other threads live");
        assert!(ProcessStat::parse("77 (a) Z 12").is_none() && ProcessStat::parse("").is_none());
        assert_eq!(ProcessStat::of(Pid::this()).expect("it is told").expect("it lives").parent, Pid::parent());
        assert!(ProcessStat::of(Pid::from_raw(i32::MAX)).expect("it is told").is_none());
    }
}
