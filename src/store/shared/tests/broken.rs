//! The shared file when LMDB refuses all work, because it could not write its meta page.

use std::pin::pin;

use nix::errno::Errno;
use nix::libc;

use super::super::write_txn::WriteTxn;
use super::*;

/// Makes all further writes of LMDB's meta pages by this thread fail: there is no other way to make only these fail.
#[allow(unsafe_code)]
fn refuse_roots_of_this_thread() {
    const NUMBER: u32 = 0;
    // The arguments of a system call: the lower halves of the third and the fourth, that is length and offset.
    const LENGTH: u32 = 16 + 2 * 8;
    const OFFSET: u32 = 16 + 3 * 8;
    let step = |code: u32, k: u32, [jt, jf]: [u8; 2]| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, [0, 0]);
    let jump = |how, value, steps| step(libc::BPF_JMP | how | libc::BPF_K, value, steps);
    let end = |how| step(libc::BPF_RET | libc::BPF_K, how, [0, 0]);
    let mut steps = [
        load(NUMBER),
        jump(libc::BPF_JEQ, libc::SYS_pwrite64 as u32, [0, 5]),
        load(OFFSET),
        jump(libc::BPF_JGE, 2 * 4_096, [3, 0]),
        load(LENGTH),
        // Shorter writes go to a lock file.
        jump(libc::BPF_JGE, 100, [0, 1]),
        end(libc::SECCOMP_RET_ERRNO | Errno::EIO as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until then.
    let codes = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
        ]
    };
    assert_eq!(codes, [0, 0], "{}", io::Error::last_os_error());
}

#[test]
fn what_lmdb_could_not_finish_is_written_when_it_can_without_a_restart() {
    let fixture = SharedFileFixture::new();
    let Open { shared, store, publisher } = fixture.open();
    let ((tasks, _failures), metrics) = (Tasks::new(), Arc::<Metrics>::default());
    let (written, _copied) = watch::channel((0, None));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let stop = tasks.stop_signal();
    let mut following = pin!(writer::follow(shared.writer, store.clone(), metrics.clone(), written, stop));
    let mut follow_until = |is_so: &(dyn Fn() -> bool + Sync)| {
        runtime.block_on(async {
            tokio::select! {
                () = &mut following => panic!("the writer ended"),
                () = wait_until(is_so) => {}
            }
        });
    };
    let trouble = || metrics.shared_trouble.load().as_deref().cloned();
    follow_until(&|| metrics.shared_writes.get() > 0);
    publisher.publish(vec![put("/a", "1")]);
    thread::scope(|scope| {
        let failing = scope.spawn(|| {
            refuse_roots_of_this_thread();
            follow_until(&|| metrics.shared_failures.get() > 2);
        });
        failing.join().expect("it fails");
    });
    assert_eq!(trouble(), Some("Input/output error; is there room on its file system?".into()));
    follow_until(&|| trouble().is_none());
    fixture.assert_holds(&store);
}

#[test]
fn what_was_written_though_it_seemed_to_fail_is_written_over() {
    let fixture = SharedFileFixture::new();
    let mut open = fixture.open();
    open.publish(vec![put("/a", "1")]);
    let env = open.env();
    // A transaction that the writer does not know: with another sum than the file's.
    let mut txn = WriteTxn::begin(&env, 1, 0).expect("a transaction");
    txn.farewell().and_then(|()| txn.commit()).expect("written");
    drop(env);
    open.shared.writer.unmap();
    open.publish(vec![put("/a", "2")]);
    fixture.assert_holds(&open.store);
}
