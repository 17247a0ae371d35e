//! What the benches share: the workload, a lean WebSocket client, /proc, question shapes, ceilings, tables.
//!
//! | file | what |
//! |---|---|
//! | `random` `text` `workload` | events: drawn from a seed, signed on all cores; knows nothing of ratite's code |
//! | `pool` `shapes` | what to ask for, and in which shapes |
//! | `socket` | a WebSocket client that costs next to nothing |
//! | `drive` | publishers, askers, subscribers |
//! | `process` | children, and what /proc says of a relay |
//! | `contender` | a relay under test |
//! | `ceilings` `checked` `fan` | what the machine itself can do; the same for publishing and for live delivery |
//! | `options` | flags that several benches have |
//! | `report` | medians, percentiles, tables |

// Each bench compiles the kit anew and uses the part it needs.
#![allow(dead_code)]

pub mod ceilings;
pub mod checked;
pub mod contender;
pub mod drive;
pub mod fan;
pub mod options;
pub mod pool;
pub mod process;
pub mod random;
pub mod report;
pub mod shapes;
pub mod socket;
pub mod text;
pub mod workload;

/// A bench has nobody to recover for: what goes wrong ends it with a message.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// True when `cargo bench` runs this. `cargo test --all-targets` runs benches too, and must not wait for them.
pub fn wanted() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}
