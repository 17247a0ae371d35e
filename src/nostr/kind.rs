//! Event kinds: the ranges of NIP-01 that decide how an event is stored, and the kinds a relay treats specially.

use std::fmt;

/// An event kind, 0 to 65535 (NIP-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

/// How events of a kind are kept (NIP-01, "Kinds").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KindClass {
    /// Every event is stored and none replaces another.
    Regular,
    /// The latest event per author and kind is kept.
    Replaceable,
    /// Delivered to open subscriptions, never stored.
    Ephemeral,
    /// The latest event per author, kind and `d` tag is kept.
    Addressable,
}

/// Whom events of a kind concern. The relay shows a private event to nobody else (NIP-04, NIP-17, NIP-59).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody.
    Public,
    /// The author, and who stands in a `p` tag.
    Parties,
    /// Who stands in a `p` tag. The author is a throw-away key.
    Recipients,
}

impl Kind {
    /// Profile metadata.
    pub const METADATA: Kind = Kind(0);
    /// Short text note.
    pub const TEXT_NOTE: Kind = Kind(1);
    /// Follow list (NIP-02).
    pub const FOLLOWS: Kind = Kind(3);
    /// Encrypted direct message of the old sort (NIP-04).
    pub const DIRECT_MESSAGE: Kind = Kind(4);
    /// Deletion request (NIP-09).
    pub const DELETION: Kind = Kind(5);
    /// Repost of a note (NIP-18).
    pub const REPOST: Kind = Kind(6);
    /// Seal (NIP-59).
    pub const SEAL: Kind = Kind(13);
    /// Private message, meant to travel inside a gift wrap only (NIP-17).
    pub const PRIVATE_MESSAGE: Kind = Kind(14);
    /// Private file, meant to travel inside a gift wrap only (NIP-17).
    pub const PRIVATE_FILE: Kind = Kind(15);
    /// Repost of any other event (NIP-18).
    pub const GENERIC_REPOST: Kind = Kind(16);
    /// Request to vanish (NIP-62).
    pub const VANISH: Kind = Kind(62);
    /// Invitation to a Marmot group, meant to travel inside a gift wrap only (NIP-EE).
    pub const GROUP_WELCOME: Kind = Kind(444);
    /// Gift wrap (NIP-59).
    pub const GIFT_WRAP: Kind = Kind(1059);
    /// Report of an event or a key (NIP-56).
    pub const REPORT: Kind = Kind(1984);
    /// A key has become a member of the relay that signs this (NIP-43).
    pub const MEMBER_ADDED: Kind = Kind(8000);
    /// A key is a member no more (NIP-43).
    pub const MEMBER_REMOVED: Kind = Kind(8001);
    /// Relay list (NIP-65).
    pub const RELAY_LIST: Kind = Kind(10002);
    /// The members of the relay that signs this (NIP-43).
    pub const MEMBERS: Kind = Kind(13534);
    /// Gift wrap that is delivered but never stored (NIP-59).
    pub const EPHEMERAL_GIFT_WRAP: Kind = Kind(21059);
    /// Answer to an AUTH challenge (NIP-42); never stored, never broadcast.
    pub const AUTH: Kind = Kind(22242);
    /// HTTP authorisation (NIP-98).
    pub const HTTP_AUTH: Kind = Kind(27235);
    /// Asks a relay to be made a member, with an invite code (NIP-43); never stored, never broadcast.
    pub const JOIN_REQUEST: Kind = Kind(28934);
    /// An invite code, made by the relay for whoever asks for this kind (NIP-43).
    pub const INVITE: Kind = Kind(28935);
    /// Asks a relay to be a member no more (NIP-43); never stored, never broadcast.
    pub const LEAVE_REQUEST: Kind = Kind(28936);
    /// A role that members of the relay that signs this can have (NIP-43).
    pub const ROLE: Kind = Kind(33534);

    /// How events of this kind are kept (N01-37 to N01-43).
    pub const fn class(self) -> KindClass {
        match self.0 {
            0 | 3 | 10000..=19999 => KindClass::Replaceable,
            20000..=29999 => KindClass::Ephemeral,
            30000..=39999 => KindClass::Addressable,
            // Kinds outside every range are regular: 62, 64, 78 and 818 rely on it (N01-42).
            _ => KindClass::Regular,
        }
    }

    /// Whom events of this kind concern (N17-01, N17-02, N17-10, N59-02).
    pub const fn audience(self) -> Audience {
        match self {
            Kind::GIFT_WRAP | Kind::EPHEMERAL_GIFT_WRAP => Audience::Recipients,
            Kind::DIRECT_MESSAGE => Audience::Parties,
            _ if self.is_inner_layer() => Audience::Parties,
            _ => Audience::Public,
        }
    }

    /// Whether events of this kind are meant to travel inside a gift wrap, never by themselves (N17-10).
    pub const fn is_inner_layer(self) -> bool {
        matches!(self, Kind::SEAL | Kind::PRIVATE_MESSAGE | Kind::PRIVATE_FILE | Kind::GROUP_WELCOME)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use KindClass::*;

    fn assert_class(kinds: impl IntoIterator<Item = u16>, class: KindClass) {
        for kind in kinds {
            assert_eq!(Kind(kind).class(), class, "kind {kind}");
        }
    }

    #[test]
    fn n01_37_regular_kinds() {
        assert_class([1, 2].into_iter().chain(4..=44).chain(1000..=9999), Regular);
    }

    #[test]
    fn n01_38_replaceable_kinds() {
        assert_class([0, 3].into_iter().chain(10000..=19999), Replaceable);
    }

    #[test]
    fn n01_39_addressable_kinds() {
        assert_class(30000..=39999, Addressable);
    }

    #[test]
    fn n01_41_ephemeral_kinds() {
        assert_class(20000..=29999, Ephemeral);
    }

    #[test]
    fn n01_42_kinds_in_no_range_are_regular() {
        assert_class((45..=999).chain(40000..=65535), Regular);
    }

    #[test]
    fn n01_43_kind_41_is_regular() {
        assert_class([41], Regular);
    }
}
