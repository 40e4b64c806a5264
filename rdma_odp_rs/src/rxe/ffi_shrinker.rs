// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Memory pressure: asks implicit regions for children that were not used lately.

use super::implicit::Region;
use core::ptr::{null_mut, NonNull};
use kernel::{
    bindings,
    ffi::c_ulong,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

struct Regions {
    /// By their address.
    tree: Option<RBTree<usize, Arc<Region>>>,
    /// Which is asked next.
    hand: usize,
    shrinker: Option<Shrinker>,
}

struct Shrinker(NonNull<bindings::shrinker>);

// SAFETY: Any task may free it.
unsafe impl Send for Shrinker {}

kernel::sync::global_lock! {
    // SAFETY: `register` initializes it before anything of the driver runs, once.
    unsafe(uninit) static REGIONS: SpinLock<Regions> = Regions {
        tree: None,
        hand: 0,
        shrinker: None,
    };
}

/// How many children there are.
static CHILDREN: Atomic<i64> = Atomic::new(0);

/// Counts children that come or go.
pub(super) fn count(by: i64) {
    CHILDREN.fetch_add(by, Relaxed);
}

/// Has the region asked from now on.
///
/// # Errors
///
/// [`ENOMEM`].
pub(super) fn add(region: &Arc<Region>) -> Result {
    let node = RBTreeNode::new(Arc::as_ptr(region).addr(), region.clone(), GFP_KERNEL)?;
    let mut regions = REGIONS.lock();
    regions.tree.get_or_insert_with(RBTree::new).insert(node);
    Ok(())
}

/// Has it not asked any more; nobody is asking it when this returns.
pub(super) fn remove(region: &Arc<Region>) {
    let mut regions = REGIONS.lock();
    let tree = regions.tree.as_mut();
    let node = tree.and_then(|tree| tree.remove_node(&Arc::as_ptr(region).addr()));
    drop(regions);
    drop(node);
}

/// # Safety
///
/// For the shrinker to call.
unsafe extern "C" fn count_objects(
    _shrinker: *mut bindings::shrinker,
    _control: *mut bindings::shrink_control,
) -> c_ulong {
    CHILDREN.load(Relaxed).max(0) as c_ulong
}

/// # Safety
///
/// For the shrinker to call.
unsafe extern "C" fn scan_objects(
    _shrinker: *mut bindings::shrinker,
    control: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: The shrinker passes a control that is its caller's.
    let control = unsafe { &mut *control };
    let asked = control.nr_to_scan;
    let mut left = asked;
    let mut given = 0;
    let mut regions = REGIONS.lock();
    let mut hand = regions.hand;
    let mut at = regions
        .tree
        .as_mut()
        .and_then(|tree| tree.cursor_lower_bound_mut(&hand));
    while let Some(cursor) = at.take() {
        let (address, region) = cursor.current();
        hand = *address;
        let (seen, spare) = region.as_arc_borrow().age(left);
        left -= seen;
        given += spare;
        if left == 0 {
            break;
        }
        hand += 1;
        at = cursor.move_next();
    }
    regions.hand = if left == 0 { hand } else { 0 };
    control.nr_scanned = asked - left;
    given
}

/// Registers the shrinker, when the module is loaded.
///
/// # Errors
///
/// [`ENOMEM`].
///
/// # Safety
///
/// Only once, before anything else of this driver runs.
pub(super) unsafe fn register() -> Result {
    // SAFETY: The caller promises that it is the first and only time.
    unsafe { REGIONS.init() };
    // SAFETY: The name is a string without directives.
    let raw = unsafe { bindings::shrinker_alloc(0, c"rdma_rxe-odp".as_char_ptr()) };
    let shrinker = NonNull::new(raw).ok_or(ENOMEM)?;
    // SAFETY: It was allocated, nobody else knows it yet, and the functions are what it expects.
    unsafe {
        (*raw).count_objects = Some(count_objects);
        (*raw).scan_objects = Some(scan_objects);
        bindings::shrinker_register(raw);
    }
    REGIONS.lock().shrinker = Some(Shrinker(shrinker));
    Ok(())
}

/// Frees the shrinker, when the module is unloaded.
pub(super) fn unregister() {
    let shrinker = REGIONS.lock().shrinker.take();
    let raw = shrinker.map_or(null_mut(), |shrinker| shrinker.0.as_ptr());
    // SAFETY: It was registered, and is not any more in `REGIONS`; or null, which is ignored.
    unsafe { bindings::shrinker_free(raw) };
}
