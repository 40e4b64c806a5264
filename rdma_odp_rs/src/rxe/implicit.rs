// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Regions of the whole address space.
//!
//! Such a region has no page list of its own. Each chunk of the address space that the peer uses
//! gets a child, which is a region as any other. A child is given back when its memory was
//! unmapped, when an access has found nothing in it, and under memory pressure if it was not used
//! lately. It never blocks who notices: the reaper, which runs in the driver's work queue, takes it
//! out of the tree and releases it. Who still uses it keeps it until then.

use super::{
    ffi_rxe, ffi_shrinker,
    ffi_umem::{OwnedUmem, Root, Umem},
    transfer::Paged,
    window::Span,
};
use kernel::{
    impl_has_work, new_mutex, new_spinlock, new_work,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, ArcBorrow, Mutex, SpinLock,
    },
    workqueue::{Work, WorkItem},
};

/// How many children are looked at before others get the lock.
const BATCH: usize = 64;

/// A region of the whole address space.
#[pin_data]
pub(super) struct Region {
    root: Root,
    #[pin]
    children: SpinLock<Children>,
    /// Keeps a chunk from getting two children.
    #[pin]
    creating: Mutex<()>,
    #[pin]
    reaper: Work<Region>,
}

struct Children {
    /// By chunk.
    tree: RBTree<u64, Arc<Child>>,
    /// Where the search for what was not used lately goes on.
    hand: u64,
}

struct Child {
    // Before the state, which its callbacks use until it is released.
    umem: OwnedUmem,
    state: Arc<State>,
}

/// What is known of a child, for its callbacks as well.
pub(super) struct State {
    region: Arc<Region>,
    /// Since the shrinker looked last.
    used: Atomic<bool>,
    /// To be given back.
    spare: Atomic<bool>,
}

impl_has_work! {
    impl HasWork<Self> for Region { self.reaper }
}

impl WorkItem for Region {
    type Pointer = Arc<Region>;

    fn run(this: Arc<Region>) {
        this.reap();
    }
}

impl State {
    /// Has the child released, though not by the caller. Does not sleep.
    pub(super) fn give_back(&self) {
        self.spare.store(true, Relaxed);
        self.region.as_arc_borrow().call_reaper();
    }
}

impl Child {
    fn new(region: ArcBorrow<'_, Region>, chunk: u64) -> Result<Arc<Self>> {
        let state = Arc::new(
            State {
                region: region.into(),
                used: Atomic::new(true),
                spare: Atomic::new(false),
            },
            GFP_KERNEL,
        )?;
        let umem = region.root.child(Span::of_chunk(chunk).ok_or(EFAULT)?)?;
        let child = Arc::new(Self { umem, state }, GFP_KERNEL)?;
        child.umem.set_private(Arc::as_ptr(&child.state));
        ffi_shrinker::count(1);
        Ok(child)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        ffi_shrinker::count(-1);
    }
}

impl Region {
    /// One with this anchor, and without children.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn new(root: Root) -> Result<Arc<Self>> {
        let region = Arc::pin_init(
            try_pin_init!(Self {
                root,
                children <- new_spinlock!(Children { tree: RBTree::new(), hand: 0 }),
                creating <- new_mutex!(()),
                reaper <- new_work!("rxe::implicit::Region::reaper"),
            }),
            GFP_KERNEL,
        )?;
        ffi_shrinker::add(&region)?;
        Ok(region)
    }

    /// Whether it was registered for writing.
    pub(super) fn writable(&self) -> bool {
        self.root.writable()
    }

    /// Calls the closure with the region of a chunk.
    ///
    /// # Errors
    ///
    /// Those of making one, and of the closure.
    pub(super) fn with(
        self: ArcBorrow<'_, Self>,
        chunk: u64,
        used_by: impl FnOnce(&Umem) -> Result,
    ) -> Result {
        let child = self.child(chunk)?;
        let done = used_by(&child.umem);
        if done.is_err() && child.umem.lock().is_empty() {
            child.state.give_back();
        }
        done
    }

    fn child(self: ArcBorrow<'_, Self>, chunk: u64) -> Result<Arc<Child>> {
        if let Some(child) = self.find(chunk) {
            return Ok(child);
        }
        let _creating = self.creating.lock();
        if let Some(child) = self.find(chunk) {
            return Ok(child);
        }
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let child = Child::new(self, chunk)?;
        let node = node.into_node(chunk, child.clone());
        let old = self.children.lock().tree.insert(node);
        debug_assert!(old.is_none());
        Ok(child)
    }

    fn find(&self, chunk: u64) -> Option<Arc<Child>> {
        let children = self.children.lock();
        let child = children.tree.get(&chunk)?;
        let state = &child.state;
        if !state.used.load(Relaxed) {
            state.used.store(true, Relaxed);
        }
        // Somebody wants it, so it stays if it was not taken out yet.
        if state.spare.load(Relaxed) {
            state.spare.store(false, Relaxed);
        }
        Some(child.clone())
    }

    fn call_reaper(self: ArcBorrow<'_, Self>) {
        // If it is queued already, it will see what is spare.
        let _ = ffi_rxe::queue().enqueue(Arc::from(self));
    }

    /// Releases what is to be given back.
    fn reap(&self) {
        let mut from = 0;
        loop {
            let mut spare = None;
            let mut at_end = false;
            let mut children = self.children.lock();
            let mut at = children.tree.cursor_lower_bound_mut(&from);
            for _ in 0..BATCH {
                let Some(cursor) = at else {
                    at_end = true;
                    break;
                };
                let (chunk, child) = cursor.current();
                from = *chunk + 1;
                if child.state.spare.load(Relaxed) {
                    spare = Some(cursor.remove_current().1);
                    break;
                }
                at = cursor.move_next();
            }
            drop(children);
            // To release it sleeps.
            drop(spare);
            if at_end {
                return;
            }
        }
    }

    /// Looks at `visits` children at most, and has those given back that were not used since the
    /// last time. Returns how many it looked at, and how many are given back. Does not sleep.
    pub(super) fn age(self: ArcBorrow<'_, Self>, visits: usize) -> (usize, usize) {
        let mut seen = 0;
        let mut given = 0;
        let mut children = self.children.lock();
        let mut hand = children.hand;
        let mut at = children.tree.cursor_lower_bound_mut(&hand);
        while let Some(cursor) = at.take() {
            if seen == visits {
                break;
            }
            seen += 1;
            let (chunk, child) = cursor.current();
            hand = *chunk + 1;
            if child.state.used.load(Relaxed) {
                child.state.used.store(false, Relaxed);
            } else if !child.state.spare.load(Relaxed) {
                child.state.spare.store(true, Relaxed);
                given += 1;
            }
            at = cursor.move_next();
        }
        children.hand = if seen < visits { 0 } else { hand };
        drop(children);
        if given > 0 {
            self.call_reaper();
        }
        (seen, given)
    }

    /// Releases all children. Nobody may use the region any more.
    pub(super) fn close(this: Arc<Self>) {
        ffi_shrinker::remove(&this);
        let tree = core::mem::take(&mut this.children.lock().tree);
        drop(tree);
        // It may be releasing some that were out of the tree already. No callback is left that
        // calls it again.
        ffi_rxe::flush(&this.reaper);
    }
}
