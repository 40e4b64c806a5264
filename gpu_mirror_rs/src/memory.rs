// SPDX-License-Identifier: GPL-2.0

//! The memory of one device.
//!
//! A private device gets its memory in chunks, as it is asked for; a coherent one has one chunk, at
//! an address that the system does not use. Pages come and go by migration (`migration`), and until
//! the last is back the memory stays.
//!
//! # Locks
//!
//! The mutex of growing, with no page locked; locks of pages → the mutex of the reserve; and the
//! lock of a chunk's free pages, which is the innermost of all.

#![forbid(unsafe_code)]

use crate::{engine::Resolve, ffi_backing::Pages, migration::ToSystem};
use kernel::{
    new_mutex,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex, SetOnce,
    },
    time::{delay::fsleep, Delta},
};
use mmu_notifier_helpers::{
    device_memory::{Chunk, Kind},
    frames::Order,
    migrate::{Destination, Room, Select, MOST_PAGES},
    pages::HUGE_ORDER,
    range::Owner,
};

/// Pages of a chunk: 256 MiB.
const CHUNK_PAGES: usize = 256 << (20 - PAGE_SHIFT);
/// Chunks of a private device: it has 1 GiB at most.
const MOST_CHUNKS: usize = 4;
/// How often pages that were busy are asked to leave again before somebody is told.
const ATTEMPTS: usize = 20;
/// How long to wait for them in between.
const PAUSE: Delta = Delta::from_millis(5);

/// What the migrations of a device share.
#[pin_data]
pub(crate) struct Control {
    /// Whether the next allocation is to fail: `HMM_DMIRROR_FLAG_FAIL_ALLOC`.
    fail: Atomic<bool>,
    /// 2 MiB of system memory to evict to when there are no others: what was moved to the device in
    /// one piece can be moved back so only, when it is not known whose it is.
    #[pin]
    reserve: Mutex<Option<Destination>>,
    /// Held by whoever adds a chunk.
    #[pin]
    growing: Mutex<()>,
}

impl Control {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            fail: Atomic::new(false),
            reserve <- new_mutex!(None, "gpu_mirror::reserve"),
            growing <- new_mutex!((), "gpu_mirror::growing"),
        })
    }

    /// Whether there is a reserve, or could be made one.
    fn reserves(&self) -> bool {
        let mut reserve = self.reserve.lock();
        if reserve.is_none() {
            *reserve = Destination::system(HUGE_ORDER, None);
        }
        reserve.is_some()
    }

    /// The reserve. There is none until the next call of [`Self::reserves`].
    pub(crate) fn take_reserve(&self) -> Option<Destination> {
        self.reserve.lock().take()
    }

    /// Lets the next allocation fail, or not.
    pub(crate) fn inject(&self, fail: bool) {
        self.fail.store(fail, Relaxed);
    }

    /// Whether this allocation is to fail. The next one is not, then.
    pub(crate) fn fails(&self) -> bool {
        self.fail.load(Relaxed) && self.fail.xchg(false, Relaxed)
    }

    /// What the core knows the device by.
    pub(crate) fn owner(&self) -> Owner {
        Owner::of(self)
    }
}

/// The memory of one device.
pub(crate) struct Memory {
    control: Arc<Control>,
    kind: Kind,
    chunks: [SetOnce<Arc<Chunk<Pages>>>; MOST_CHUNKS],
}

impl Memory {
    /// Memory of the kind.
    ///
    /// # Errors
    ///
    /// Those of [`Chunk::new`].
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let control = Arc::pin_init(Control::new(), GFP_KERNEL)?;
        let chunks = [const { SetOnce::new() }; MOST_CHUNKS];
        // Private memory is there when it is asked for.
        if let Kind::Coherent(_) = kind {
            chunks[0].populate(chunk(&control, kind)?);
        }
        Ok(Self {
            control,
            kind,
            chunks,
        })
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// What the core knows the device by.
    pub(crate) fn owner(&self) -> Owner {
        self.control.owner()
    }

    /// How migration selects pages that are here.
    pub(crate) fn select(&self) -> Select {
        match self.kind {
            Kind::Private => Select::Private(self.owner()),
            Kind::Coherent(_) => Select::Coherent(self.owner()),
        }
    }

    fn chunks(&self) -> impl Iterator<Item = &Arc<Chunk<Pages>>> {
        self.chunks.iter().map_while(SetOnce::as_ref)
    }

    /// How many pages are in use.
    pub(crate) fn used(&self) -> usize {
        self.chunks().map(|chunk| chunk.used()).sum()
    }

    /// How many pages there are at most.
    pub(crate) fn total(&self) -> usize {
        match self.kind {
            Kind::Private => MOST_CHUNKS * CHUNK_PAGES,
            Kind::Coherent(_) => CHUNK_PAGES,
        }
    }

    /// Adds chunks until `pages` pages are free, as far as the device has any. Not to have them is
    /// no error: pages that find no place stay where they are.
    ///
    /// May sleep; no page may be locked.
    pub(crate) fn prepare(&self, pages: usize) {
        if self.kind != Kind::Private {
            return;
        }
        let enough = || {
            let known = self.chunks().count() * CHUNK_PAGES;
            known.saturating_sub(self.used()) >= pages
        };
        if enough() {
            return;
        }
        let _growing = self.control.growing.lock();
        while !enough() {
            let Some(free) = self.chunks.iter().find(|chunk| chunk.as_ref().is_none()) else {
                return;
            };
            let Ok(chunk) = chunk(&self.control, self.kind) else {
                return;
            };
            free.populate(chunk);
        }
    }

    /// A place for one page or 2 MiB, with memory behind it.
    ///
    /// May sleep.
    pub(crate) fn alloc(&self, order: Order) -> Option<Destination> {
        // The core does not support coherent memory by more than a page: what was moved there 2 MiB
        // at a time cannot be moved back or unmapped in part.
        if order == Order::Huge && (self.kind != Kind::Private || !self.control.reserves()) {
            return None;
        }
        let mut chunks = self.chunks();
        let (chunk, new) = chunks.find_map(|chunk| Some((chunk, chunk.alloc(order)?)))?;
        let index = chunk.index(new.pfn())?;
        chunk.driver().ensure(index).ok()?;
        Some(new)
    }

    /// Moves everything that is here back to the system, whoever uses it.
    ///
    /// May sleep; no page may be locked.
    ///
    /// # Errors
    ///
    /// `EBUSY`: some pages were in use all the time, or found no place; `ENOMEM`.
    pub(crate) fn evict(&self) -> Result {
        if self.used() == 0 {
            return Ok(());
        }
        let mut room = Room::new(MOST_PAGES, GFP_KERNEL)?;
        let mut mover = ToSystem::evicting(self);
        for _ in 0..ATTEMPTS {
            let left: usize = self
                .chunks()
                .map(|chunk| chunk.evict(&mut room, &mut mover))
                .sum();
            if left == 0 {
                drop(self.control.take_reserve());
                return Ok(());
            }
            fsleep(PAUSE);
        }
        Err(EBUSY)
    }
}

impl Resolve for Memory {
    fn backing(&self, pfn: usize) -> Option<(usize, usize)> {
        match self.kind {
            Kind::Private => self.chunks().find_map(|chunk| chunk.backing(pfn)),
            Kind::Coherent(_) => None,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What is still here would hold up the end of the chunks for ever.
        while self.evict().is_err() {
            fsleep(PAUSE);
        }
    }
}

fn chunk(control: &Arc<Control>, kind: Kind) -> Result<Arc<Chunk<Pages>>> {
    let pages = Pages::new(control.clone(), kind, CHUNK_PAGES)?;
    Arc::pin_init(
        Chunk::new(pages, control.owner(), kind, CHUNK_PAGES, c"gpu_mirror_rs"),
        GFP_KERNEL,
    )
}
