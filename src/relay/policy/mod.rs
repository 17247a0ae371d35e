//! Policy: who may read what, and who may write what. Each file one question, each rule a plain function.
//!
//! | file | what |
//! |---|---|
//! | [`viewer`] | who is at the other end of a connection, and what that one may see |
//! | [`auth`] | AUTH: proving who one is (NIP-42) |
//! | [`membership`] | who belongs to the relay, and what only members may do (NIP-43) |
//! | [`moderation`] | the operator's lists: banned and allowed keys, events, kinds |
//! | [`publish`] | what a stranger's event must keep to beside limits: protected events, proof of work, private layers |

pub mod auth;
pub mod membership;
pub mod moderation;
pub mod publish;
pub mod viewer;

pub use auth::OwnAddresses;
pub use moderation::Moderation;
pub use viewer::Viewer;
