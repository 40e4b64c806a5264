// SPDX-License-Identifier: GPL-2.0

//! A process that makes the system calls that a test asks for, one after the other, and waits in
//! the kernel in between. So a test knows at any time what the process is doing.
//!
//! The program, `kbuild/kunit_program.S`, is a loop around one ioctl of the module's device, which
//! takes the result of the last call and gives the next. It has nothing but a page of code and its
//! stack, and needs nothing of user space, so there need not be any.

#![forbid(unsafe_code)]

use crate::{
    bindings::{
        __NR_exit_group, __NR_fork, __NR_getrandom, __NR_mmap, MAP_ANONYMOUS, MAP_FIXED,
        MAP_PRIVATE, PROT_READ, PROT_WRITE,
    },
    ffi_device::start,
    ffi_mm::is_asleep,
    wait::{eventually, Waited},
};
use kernel::{
    ioctl::{_IO, _IOWR},
    mm::{Mm, MmWithUser},
    page::PAGE_SIZE,
    prelude::*,
    sync::{aref::ARef, Arc},
    task::{Pid, Task},
};
use mmu_notifier_helpers::range::PageRange;

/// Where no program is, at a multiple of 2 MiB.
pub(crate) const ADDR: usize = 0x1000_0000_0000;

/// A system call: its number and arguments.
type Call = [i64; 7];

/// What a process does in the kernel, on its way to the next system call.
pub(crate) type Errand = KBox<dyn FnMut() -> Result + Send>;

/// What a process is told.
enum Order {
    Call(Call),
    Errand(Errand),
}

#[derive(Default)]
struct State {
    errand: Option<Errand>,
    /// Who is on an errand, and what became of the last one.
    errant: Option<ARef<Task>>,
    done: Option<Result>,
    process: Option<(ARef<Mm>, Pid)>,
    call: Option<Call>,
    is_calling: bool,
    result: Option<i64>,
    is_closed: bool,
    child: Option<Arc<Session>>,
}

/// What a test and its process tell each other.
#[pin_data]
pub(crate) struct Session {
    #[pin]
    state: Waited<State>,
}

impl Session {
    /// The ioctl of the next call.
    pub(crate) const TURN: u32 = _IOWR::<[i64; 8]>('k' as u32, 0);
    /// The ioctl of a child that was forked, which gives it a descriptor for its own session.
    pub(crate) const FORKED: u32 = _IO('k' as u32, 1);

    fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self { state <- Waited::new(State::default()) }),
            GFP_KERNEL,
        )
    }

    /// The process is there and has its first turn, unless it had that before.
    pub(crate) fn enter(&self, mm: &MmWithUser, pid: Pid) {
        self.state.with(|state| {
            state
                .process
                .get_or_insert_with(|| (ARef::from(&**mm), pid));
        });
    }

    /// The session that the child which is being forked is to have.
    pub(crate) fn child(&self) -> Option<Arc<Self>> {
        self.state.with(|state| state.child.take())
    }

    /// The process has closed the device, which it does when it exits and its memory is gone.
    pub(crate) fn closed(&self) {
        self.state.with(|state| state.is_closed = true);
    }

    /// Takes the result of the last call and waits for the next, deaf even to being killed.
    pub(crate) fn turn(&self, result: i64) -> [i64; 8] {
        self.state.with(|state| {
            if core::mem::take(&mut state.is_calling) {
                state.result = Some(result);
            }
        });
        loop {
            let order = self.state.wait_uninterruptible(|state| {
                if let Some(errand) = state.errand.take() {
                    return Some(Order::Errand(errand));
                }
                let call = state.call.take()?;
                state.is_calling = true;
                Some(Order::Call(call))
            });
            match order {
                Order::Call([nr, a, b, c, d, e, f]) => return [0, nr, a, b, c, d, e, f],
                Order::Errand(errand) => self.go(errand),
            }
        }
    }

    fn go(&self, mut errand: Errand) {
        let task = ARef::from(&**kernel::current!());
        self.state.with(|state| state.errant = Some(task));
        let result = errand();
        // What it holds is gone when the result is there.
        drop(errand);
        self.state.with(|state| {
            state.errant = None;
            state.done = Some(result);
        });
    }
}

// The program has the numbers, too.
const _: () = assert!(Session::TURN == 0xc040_6b00 && Session::FORKED == 0x6b01);

/// A process under test. It exits when this is dropped.
pub(crate) struct Puppet(Arc<Session>);

impl Puppet {
    /// Starts a process.
    pub(crate) fn start() -> Result<Self> {
        let session = Session::new()?;
        start(session.clone())?;
        Self::meet(session)
    }

    /// Starts a process with `pages` pages of memory at [`ADDR`], not yet touched.
    pub(crate) fn with_memory(pages: usize) -> Result<(Self, PageRange)> {
        let puppet = Self::start()?;
        let range = PageRange::new(ADDR, ADDR + pages * PAGE_SIZE)?;
        let protection = (PROT_READ | PROT_WRITE).into();
        let flags = (MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED).into();
        let len = range.len() as i64;
        puppet.call(__NR_mmap, [ADDR as i64, len, protection, flags, -1, 0])?;
        Ok((puppet, range))
    }

    /// Lets it write to its memory, and returns how many bytes it wrote.
    pub(crate) fn fill(&self, range: &PageRange) -> Result<i64> {
        let args = [range.start() as i64, range.len() as i64, 0];
        self.call(__NR_getrandom, args)
    }

    fn meet(session: Arc<Session>) -> Result<Self> {
        session
            .state
            .wait(|state| state.process.as_ref().map(|_| ()))?;
        Ok(Self(session))
    }

    /// Lets it make a system call, without waiting for the result.
    pub(crate) fn begin<const N: usize>(&self, nr: u32, args: [i64; N]) {
        let mut call = [0; 7];
        call[0] = nr.into();
        call[1..=N].copy_from_slice(&args);
        self.0.state.with(|state| {
            state.result = None;
            state.call = Some(call);
        });
    }

    /// Waits for the result of what was begun.
    pub(crate) fn finish(&self) -> Result<i64> {
        let result = self.0.state.wait(|state| state.result.take())?;
        match result {
            errno @ -4095..=-1 => Err(Error::from_errno(errno as i32)),
            result => Ok(result),
        }
    }

    /// Lets it make a system call.
    pub(crate) fn call<const N: usize>(&self, nr: u32, args: [i64; N]) -> Result<i64> {
        self.begin(nr, args);
        self.finish()
    }

    /// Lets it fork, and gives the child.
    pub(crate) fn fork(&self) -> Result<Self> {
        let session = Session::new()?;
        let child = session.clone();
        self.0.state.with(|state| state.child = Some(child));
        self.call(__NR_fork, [])?;
        Self::meet(session)
    }

    /// Sends it on an errand, without waiting for the result.
    pub(crate) fn send(&self, errand: impl FnMut() -> Result + Send + 'static) -> Result {
        let errand: Errand = KBox::new(errand, GFP_KERNEL)?;
        self.0.state.with(|state| {
            state.done = None;
            state.errand = Some(errand);
        });
        Ok(())
    }

    /// Waits until it sleeps on its errand or is back, and tells whether it sleeps.
    pub(crate) fn sleeps_on_its_errand(&self) -> Result<bool> {
        let state = &self.0.state;
        let task = state.wait(|state| match (&state.errant, state.done) {
            (Some(task), _) => Some(Some(task.clone())),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        })?;
        let is_back = || state.with(|state| state.done.is_some());
        let sleeps = task.is_some_and(|task| eventually(|| is_back() || is_asleep(&task)));
        Ok(sleeps && !is_back())
    }

    /// Waits for the result of its errand.
    pub(crate) fn back(&self) -> Result<Result> {
        self.0.state.wait(|state| state.done.take())
    }

    fn process(&self) -> Result<(ARef<Mm>, Pid)> {
        self.0.state.wait(|state| state.process.clone())
    }

    /// Its address space.
    pub(crate) fn mm(&self) -> Result<ARef<MmWithUser>> {
        self.process()?.0.mmget_not_zero().ok_or(ESRCH)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Result<Pid> {
        Ok(self.process()?.1)
    }

    /// Waits until it has exited and let go of its memory.
    pub(crate) fn wait_for_exit(&self) -> Result {
        self.0.state.wait(|state| state.is_closed.then_some(()))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.begin(__NR_exit_group, [0]);
        if self.wait_for_exit().is_err() {
            pr_err!("a process under test does not exit\n");
        }
    }
}
