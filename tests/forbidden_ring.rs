//! A machine that forbids io_uring, as containers do by default: the program must start on epoll and say so.
//!
//! The machine is made by a seccomp filter that the child process puts on itself before it becomes `shardgate`.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Answers io_uring_setup with EPERM, as Docker's default profile does, and allows everything else.
fn forbid_io_uring() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let number = 0; // offset of seccomp_data.nr
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_io_uring_setup as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls only read their arguments; `program` and the filter it points to live until they return.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn shardgate(backend: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
    // Nothing listens on port 1: it asks in vain for the gateway until it is stopped.
    let config = format!(
        r#"{{"token":"x","intents":1,"shards":1,"port":0,"backend":"{backend}","api_url":"http://127.0.0.1:1/api/v10"}}"#
    );
    command.args(arguments).env("CONFIG", config).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(forbid_io_uring) };
    command
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn auto_starts_on_epoll_and_names_the_remedy_in_one_line() {
    let mut child = Ended(shardgate("auto", &[]).spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|it| it.contains("epoll")).expect("the log says so before it goes on");
    assert!(line.contains("io_uring is forbidden") && line.contains("remedy:"), "{line}");
}

#[test]
fn a_check_says_the_same_and_succeeds() {
    let output = shardgate("auto", &["--check"]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{page}");
    assert!(page.contains("epoll") && page.contains("io_uring is forbidden"), "{page}");
}

#[test]
fn io_uring_wanted_by_name_refuses_to_start() {
    let output = shardgate("io_uring", &[]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("io_uring is forbidden") && error.contains("remedy:"), "{error}");
}
