// SPDX-License-Identifier: GPL-2.0

//! The drivers under test: they record every invalidation and every page that they are shown.

use crate::ffi_mm::{map_over, touch};
use kernel::{
    mm::MmWithUser,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use mmu_notifier_helpers::{
    fault::{Access, Buffer, Request},
    interval::{IntervalNotifier, TwoPassMirror},
    invlock::Publish,
    mirror::{Mirror, Subscription},
    notifier::{Attachment, PerMm, PerMmMirror},
    pages::{Entry, Faulted, PageState},
    range::{Event, Invalidation, PageRange},
};

/// More than any test needs.
const ROOM: usize = 16;

/// What was read for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Memory, with the first byte that it held then.
    Mapped {
        pfn: usize,
        order: u32,
        writable: bool,
        exclusive: bool,
        first: u8,
    },
    Empty,
    Error,
}

impl Seen {
    /// The first byte of the page and whether the device may write to it, if it is mapped.
    pub(crate) fn mapped(&self) -> Option<(u8, bool)> {
        match *self {
            Self::Mapped {
                first, writable, ..
            } => Some((first, writable)),
            Self::Empty | Self::Error => None,
        }
    }
}

/// What a subscription was told: range, event, and whether it could have slept.
pub(crate) type Zap = (PageRange, Event, bool);

/// The shadow: the pages published and not yet zapped, and all zaps that a test has an eye on.
#[derive(Default)]
pub(crate) struct Shadow {
    only: Option<PageRange>,
    blind: bool,
    pages: [Option<(usize, Seen)>; ROOM],
    zaps: [Option<Zap>; ROOM],
    publications: usize,
}

impl Shadow {
    /// One that records what has to do with `range`, and nothing else.
    pub(crate) fn of(range: PageRange) -> Self {
        Self {
            only: Some(range),
            ..Self::default()
        }
    }

    /// The same, which does not look at what is in the pages: they may be of private memory.
    #[cfg(CONFIG_DEVICE_PRIVATE)]
    pub(crate) fn blind(self) -> Self {
        Self {
            blind: true,
            ..self
        }
    }

    /// How many pages there are.
    pub(crate) fn len(&self) -> usize {
        self.pages.iter().flatten().count()
    }

    /// The page at `addr`.
    pub(crate) fn page(&self, addr: usize) -> Option<Seen> {
        let found = self.pages.iter().flatten().find(|(at, _)| *at == addr);
        found.map(|(_, seen)| *seen)
    }

    /// The zaps, the oldest first.
    pub(crate) fn zaps(&self) -> impl DoubleEndedIterator<Item = Zap> + '_ {
        self.zaps.iter().flatten().copied()
    }

    /// Whether there was this one.
    pub(crate) fn was_told(&self, zap: Zap) -> bool {
        self.zaps.contains(&Some(zap))
    }

    /// The last zap.
    pub(crate) fn last_zap(&self) -> Option<Zap> {
        self.zaps().next_back()
    }

    /// How many pages and how many zaps there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.len(), self.zaps().count())
    }

    /// How often something was published.
    pub(crate) fn publications(&self) -> usize {
        self.publications
    }

    fn zap(&mut self, invalidation: &Invalidation) {
        let range = *invalidation.range();
        for page in &mut self.pages {
            page.take_if(|(addr, _)| (range.start()..range.end()).contains(addr));
        }
        if self.only.is_some_and(|only| !only.overlaps(&range)) {
            return;
        }
        if let Some(free) = self.zaps.iter_mut().find(|zap| zap.is_none()) {
            *free = Some((range, invalidation.event(), invalidation.blockable()));
        }
    }
}

// SAFETY: Assigns and copies; there is no lock and no allocation in it. The entries are dropped:
// what is kept is what they looked like.
unsafe impl Publish<Faulted<'_, ()>> for Shadow {
    type Output = Result;

    fn publish(&mut self, faulted: Faulted<'_, ()>) -> Result {
        self.publications += 1;
        let interests = |addr| {
            self.only
                .is_none_or(|only| (only.start()..only.end()).contains(&addr))
        };
        for (addr, state) in faulted.pages.entries() {
            if !interests(addr) {
                continue;
            }
            let seen = match state {
                PageState::Mapped(entry) => Seen::Mapped {
                    pfn: entry.pfn(),
                    order: entry.order(),
                    writable: entry.writable(),
                    exclusive: entry.exclusive(),
                    first: if self.blind {
                        0
                    } else {
                        // SAFETY: The shadow is taking the entry in. It would be blind if that
                        // might name private memory.
                        unsafe { first_byte(&entry) }
                    },
                },
                PageState::Empty => Seen::Empty,
                PageState::Error => Seen::Error,
            };
            let at = |slot: &Option<(usize, Seen)>| slot.map(|(at, _)| at);
            let slot = (self.pages.iter().position(|slot| at(slot) == Some(addr)))
                .or_else(|| self.pages.iter().position(Option::is_none))
                .ok_or(ENOSPC)?;
            self.pages[slot] = Some((addr, seen));
        }
        Ok(())
    }
}

/// The first byte of the page.
///
/// # Safety
///
/// As for [`Entry::copy_to`].
unsafe fn first_byte(entry: &Entry) -> u8 {
    let mut copy = [0; PAGE_SIZE];
    // SAFETY: By the caller's promise.
    unsafe { entry.copy_to(0, core::slice::from_mut(&mut copy)) };
    copy[0]
}

/// How often something happened.
pub(crate) struct Tally(Atomic<usize>);

impl Tally {
    /// Counts it, and tells how often it had happened before.
    fn add(&self) -> usize {
        self.0.fetch_add(1, Relaxed)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

/// How far the passes of an invalidation are, over all who share this.
#[derive(Default)]
pub(crate) struct Passes {
    pub(crate) started: Tally,
    pub(crate) finished: Tally,
    /// Starts that came after a finish.
    pub(crate) late: Tally,
}

/// A driver. Each `TYPE` is another one to the core.
#[derive(Default)]
pub(crate) struct Recorder<const TYPE: usize> {
    /// Collisions, tries that held others off, and invalidations that were refused.
    pub(crate) collisions: Tally,
    pub(crate) exclusions: Tally,
    pub(crate) refusals: Tally,
    /// Memory that is unmapped and mapped anew at each collision.
    pub(crate) restless: Option<(ARef<MmWithUser>, PageRange)>,
    pub(crate) passes: Option<Arc<Passes>>,
}

// SAFETY: What is recorded of the range is removed. There is no entry, no device, and no sleeping.
unsafe impl<const TYPE: usize> Mirror for Recorder<TYPE> {
    type Shadow = Shadow;
    type Reserve = ();

    fn zap(&self, shadow: &mut Shadow, invalidation: &Invalidation) {
        shadow.zap(invalidation);
    }

    fn collided(&self, _range: &PageRange) {
        self.collisions.add();
        if let Some((mm, range)) = &self.restless {
            // If it fails there is no other collision, which the test notices.
            let _ = map_over(mm, range).and_then(|()| touch(mm, range.start()));
        }
    }

    fn excluding(&self, _range: &PageRange) {
        self.exclusions.add();
    }

    fn refused(&self) {
        self.refusals.add();
    }
}

// SAFETY: As above.
unsafe impl<const TYPE: usize> TwoPassMirror for Recorder<TYPE> {
    type Flush = Arc<Passes>;

    fn start(&self, shadow: &mut Shadow, invalidation: &Invalidation) -> Option<Arc<Passes>> {
        shadow.zap(invalidation);
        let passes = self.passes.clone()?;
        passes.started.add();
        if passes.finished.get() > 0 {
            passes.late.add();
        }
        Some(passes)
    }

    fn finish(&self, passes: Arc<Passes>) {
        passes.finished.add();
    }
}

mmu_notifier_helpers::per_mm_mirror!(Recorder<1>, "Recorder<1>");
mmu_notifier_helpers::per_mm_mirror!(Recorder<2>, "Recorder<2>");

/// A subscription of a driver to a range.
pub(crate) type Notifier<const TYPE: usize> = IntervalNotifier<Recorder<TYPE>>;

/// The context of a driver in an address space.
pub(crate) type Context<const TYPE: usize> = PerMm<Recorder<TYPE>>;

/// Subscribes a driver to `range`.
pub(crate) fn watch<const TYPE: usize>(
    mm: &MmWithUser,
    range: PageRange,
) -> Result<Arc<Notifier<TYPE>>> {
    watch_with(mm, range, Recorder::default())
}

/// Subscribes `recorder` to `range`.
pub(crate) fn watch_with<const TYPE: usize>(
    mm: &MmWithUser,
    range: PageRange,
    recorder: Recorder<TYPE>,
) -> Result<Arc<Notifier<TYPE>>> {
    let watch = Watch {
        mm,
        range,
        recorder,
    };
    Arc::pin_init(watch, GFP_KERNEL)
}

/// Makes a notifier. The initialiser that does so has a type with a long name, and functions that
/// take it have names for which objtool has no room.
struct Watch<'a, const TYPE: usize> {
    mm: &'a MmWithUser,
    range: PageRange,
    recorder: Recorder<TYPE>,
}

// SAFETY: Does what an initialiser of the same type does.
unsafe impl<const TYPE: usize> PinInit<Notifier<TYPE>, Error> for Watch<'_, TYPE> {
    unsafe fn __init(self, slot: *mut Notifier<TYPE>) -> Result {
        let shadow = kernel::new_mutex!(Shadow::default(), "Recorder::shadow");
        let recorder = Ok::<_, Error>(self.recorder);
        let notifier = IntervalNotifier::insert(self.mm, self.range, recorder, shadow);
        // SAFETY: By the caller's promise.
        unsafe { notifier.__init(slot) }
    }
}

/// Subscribes a driver to `range`, in two passes that are counted in `passes`.
pub(crate) fn watch_two_pass(
    mm: &MmWithUser,
    range: PageRange,
    passes: Arc<Passes>,
) -> Result<Arc<Notifier<0>>> {
    let recorder = Recorder {
        passes: Some(passes),
        ..Recorder::default()
    };
    let shadow = kernel::new_mutex!(Shadow::default(), "Recorder::shadow");
    let notifier = IntervalNotifier::insert_two_pass(mm, range, Ok::<_, Error>(recorder), shadow);
    Arc::pin_init(notifier, GFP_KERNEL)
}

/// Attaches a mirror of the driver to its context.
pub(crate) fn attach<const TYPE: usize>(
    context: &ARef<Context<TYPE>>,
) -> Result<Attachment<Recorder<TYPE>>>
where
    Recorder<TYPE>: PerMmMirror<Shadow = Shadow>,
{
    attach_with(context, Recorder::default(), Shadow::default())
}

/// Attaches `recorder` to the context of its driver.
pub(crate) fn attach_with<const TYPE: usize>(
    context: &ARef<Context<TYPE>>,
    recorder: Recorder<TYPE>,
    shadow: Shadow,
) -> Result<Attachment<Recorder<TYPE>>>
where
    Recorder<TYPE>: PerMmMirror<Shadow = Shadow>,
{
    let recorder = Arc::new(recorder, GFP_KERNEL)?;
    Attachment::new(context.clone(), recorder, shadow)
}

/// Reads the entries of `range` and records them.
pub(crate) fn fault<const TYPE: usize>(
    mirror: &impl Subscription<Mirror = Recorder<TYPE>>,
    mm: &MmWithUser,
    range: PageRange,
    access: Access,
) -> Result {
    request(mirror, mm, &Request::new(range, access), range.pages())
}

/// Reads what `request` says with room for `room` pages, and records it.
pub(crate) fn request<const TYPE: usize>(
    mirror: &impl Subscription<Mirror = Recorder<TYPE>>,
    mm: &MmWithUser,
    request: &Request<'_>,
    room: usize,
) -> Result {
    let mut buffer = Buffer::new(room, GFP_KERNEL)?;
    mirror.fault(mm, request, &mut buffer, &mut ()).map(|_| ())
}
