//! TLS: the relay's certificate.
//!
//! | file | what |
//! |---|---|
//! | `state` | what is known of the certificate |

mod state;

pub use state::{CertificateError, CertificateState};
