// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The context of a device and an address space, which the regions there share.
//!
//! It has the only subscription to the invalidations of the address space, the reference to its
//! `mm` with it, and the tree of the regions. Who registers a region finds it, or makes it, by
//! [`UcontextPerMm::get`]; an implicit region holds on to it, and hands it to its children.
//!
//! # Locks
//!
//! The registry's mutex is innermost: no memory is allocated under it, no other lock is taken, and
//! no callback of the core takes it. Contexts are made and given up outside of it, since both may
//! wait for others: for the mmap lock, and for invalidations in flight.

#![forbid(unsafe_code)]

use crate::{ffi_registry, ffi_tgid::Tgid, ffi_tree::UmemTree};
use core::ops::Deref;
use kernel::{
    mm::MmWithUser,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use pin_init::pin_data;

/// What a context is for.
///
/// Processes that are no threads of each other may share an address space, and each serves the page
/// faults of its regions for as long as it lives; so the process is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    device: usize,
    mm: usize,
    tgid: usize,
}

/// The context of a device and an address space.
#[pin_data]
pub(crate) struct UcontextPerMm {
    key: Key,
    /// Which the key names, and which is another process's as soon as nobody holds on to it.
    tgid: Tgid,
    /// Counts the uses. It is 1 when the context comes into the registry, and reaches zero under
    /// the registry's mutex only, when the context leaves it.
    users: Atomic<usize>,
    #[pin]
    umems: UmemTree,
}

/// The contexts there are.
pub(crate) type Registry = Option<RBTree<Key, Arc<UcontextPerMm>>>;

impl UcontextPerMm {
    /// The context of the current process for the device at the address `device`.
    ///
    /// # Context
    ///
    /// Sleeps. Takes the mmap lock for writing if nobody watches the address space yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    pub(crate) fn get(device: usize, mm: &MmWithUser) -> Result<ContextRef> {
        let tgid = Tgid::current();
        let key = Key {
            device,
            mm: mm.as_raw() as usize,
            tgid: tgid.address(),
        };
        if let Some(found) = Self::find(&ffi_registry::lock(), &key) {
            return Ok(found);
        }

        let context = Arc::pin_init(
            try_pin_init!(Self {
                key,
                tgid,
                users: Atomic::new(1),
                umems <- UmemTree::watch(mm),
            }),
            GFP_KERNEL,
        )?;
        let node = RBTreeNode::new(key, context.clone(), GFP_KERNEL)?;
        let mut registry = ffi_registry::lock();
        if let Some(found) = Self::find(&registry, &key) {
            // Somebody else has made one meanwhile. Ours goes, without the lock.
            drop(registry);
            drop(node);
            return Ok(found);
        }
        registry.get_or_insert_with(RBTree::new).insert(node);
        drop(registry);
        // INVARIANT: It has just been counted.
        Ok(ContextRef(context))
    }

    fn find(registry: &Registry, key: &Key) -> Option<ContextRef> {
        let context = registry.as_ref()?.get(key)?;
        context.users.fetch_add(1, Relaxed);
        // INVARIANT: It has just been counted.
        Some(ContextRef(context.clone()))
    }

    /// The regions.
    pub(crate) fn umems(&self) -> &UmemTree {
        &self.umems
    }

    /// The process.
    pub(crate) fn tgid(&self) -> &Tgid {
        &self.tgid
    }
}

/// A use of a context. With the last of them the context goes.
///
/// # Context
///
/// Dropping it may be the end of the context, which waits for invalidations in flight.
///
/// # Invariants
///
/// It is counted in the registry.
pub(crate) struct ContextRef(Arc<UcontextPerMm>);

impl ContextRef {
    /// One use more.
    pub(crate) fn share(&self) -> Self {
        self.0.users.fetch_add(1, Relaxed);
        // INVARIANT: It has just been counted, and was not zero, since `self` is counted.
        Self(self.0.clone())
    }
}

impl Deref for ContextRef {
    type Target = UcontextPerMm;

    fn deref(&self) -> &UcontextPerMm {
        &self.0
    }
}

impl Drop for ContextRef {
    fn drop(&mut self) {
        let users = &self.0.users;
        let mut seen = users.load(Relaxed);
        // The context itself has a count of its own, which orders what comes before it goes.
        while seen > 1 {
            match users.cmpxchg(seen, seen - 1, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        let mut registry = ffi_registry::lock();
        if users.fetch_sub(1, Relaxed) > 1 {
            return;
        }
        let last = registry
            .as_mut()
            .and_then(|contexts| contexts.remove(&self.0.key));
        // The context itself, too, goes without the lock, when this and `self` are dropped.
        drop(registry);
        drop(last);
    }
}
