// SPDX-License-Identifier: GPL-2.0

//! Where an invalidation waits in flight until a test lets it go on.

#![forbid(unsafe_code)]

use crate::wait::Waited;
use kernel::{prelude::*, sync::Arc};

#[derive(Default)]
struct State {
    is_open: bool,
    arrived: bool,
    passed: bool,
}

/// A gate, closed until it is opened.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    state: Waited<State>,
}

impl Gate {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self { state <- Waited::new(State::default()) }),
            GFP_KERNEL,
        )
    }

    /// Passes the gate once it is open.
    pub(crate) fn pass(&self) {
        self.state.with(|state| state.arrived = true);
        // If nobody opens it, the test has failed and says so itself.
        let _ = self.state.wait(|state| state.is_open.then_some(()));
        self.state.with(|state| state.passed = true);
    }

    /// Waits until somebody stands at the gate.
    pub(crate) fn wait_for_arrival(&self) -> Result {
        self.state.wait(|state| state.arrived.then_some(()))
    }

    /// Opens the gate for good.
    pub(crate) fn open(&self) {
        self.state.with(|state| state.is_open = true);
    }

    /// Whether somebody went through.
    pub(crate) fn was_passed(&self) -> bool {
        self.state.with(|state| state.passed)
    }
}
