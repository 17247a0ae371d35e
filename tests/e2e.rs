//! The relay as the users of nostr-sdk see it: a client we did not write, over real sockets.
//!
//! Where something is asked for, the sdk judges along: an event that does not match its filter, or one more than the limit,
//! makes it ban the relay, and the test fails.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod wire;

use std::borrow::Cow;
use std::time::Duration;

use nostr_sdk::prelude::*;
use ratite::relay::Clock;
use tokio::sync::broadcast;

use wire::TestRelay;

/// Nothing here takes as long; a test that waits for this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test against a relay of its own.
fn against(relay: &TestRelay, test: impl AsyncFnOnce(RelayUrl)) {
    let url = RelayUrl::parse(&format!("ws://{}", relay.address)).unwrap();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test(url));
}

/// Somebody with a key and a connection.
struct User {
    keys: Keys,
    client: Client,
    relay: Relay,
}

impl User {
    async fn new(url: &RelayUrl) -> User {
        // The sdk registers a subscription that stays open after it has asked for it; a judge would be taken unawares.
        User::with(url, RelayOptions::new()).await
    }

    async fn with(url: &RelayUrl, options: RelayOptions) -> User {
        let keys = Keys::generate();
        let client = Client::builder().signer(keys.clone()).build();
        client.pool().add_relay(url.clone(), options).await.unwrap();
        let connected = client.try_connect(PATIENCE).await;
        assert_eq!(connected.failed.len(), 0, "{connected:?}");
        let relay = client.relay(url.clone()).await.unwrap();
        User { keys, client, relay }
    }

    fn sign(&self, event: EventBuilder) -> Event {
        event.sign_with_keys(&self.keys).unwrap()
    }

    /// Publishes something new and hears OK true.
    #[track_caller]
    fn publishes(&self, event: EventBuilder) -> impl Future<Output = Event> {
        let event = self.sign(event);
        let here = std::panic::Location::caller();
        async move {
            if let Err(error) = self.relay.send_event(&event).await {
                panic!("{here}: {error}");
            }
            event
        }
    }

    /// Publishes and hears OK false, with this reason.
    async fn is_refused(&self, event: &Event) -> String {
        match self.relay.send_event(event).await {
            Ok(_) => panic!("the relay took {}", event.as_json()),
            Err(error) => error.to_string(),
        }
    }

    /// Everything that the relay answers, newest first as the sdk sorts it. A client of its own asks: one that took part
    /// in the conversation hides what it knows to be deleted or replaced.
    async fn finds(&self, filter: Filter) -> Vec<Event> {
        let strict = RelayOptions::new().verify_subscriptions(true).ban_relay_on_mismatch(true);
        let fresh = User::with(self.relay.url(), strict).await;
        let found = fresh.relay.fetch_events(filter, PATIENCE, ReqExitPolicy::ExitOnEOSE).await.unwrap();
        assert!(fresh.relay.is_connected(), "the sdk caught the relay cheating");
        fresh.client.shutdown().await;
        found.into_iter().collect()
    }

    async fn finds_nothing(&self, filter: Filter) -> bool {
        self.finds(filter).await.is_empty()
    }

    /// Opens a subscription and hears everything from its beginning.
    async fn listens(&self, filter: Filter) -> Ear {
        let notifications = self.relay.notifications();
        let id = self.relay.subscribe(filter, SubscribeOptions::default()).await.unwrap();
        Ear { id, notifications }
    }

    async fn counts(&self, filter: Filter) -> Heard {
        let notifications = self.relay.notifications();
        let id = SubscriptionId::generate();
        let message = ClientMessage::Count { subscription_id: Cow::Borrowed(&id), filter: Cow::Owned(filter) };
        self.relay.send_msg(message).unwrap();
        Ear { id, notifications }.hears().await
    }
}

/// One subscription, or one question for a number.
struct Ear {
    id: SubscriptionId,
    notifications: broadcast::Receiver<RelayNotification>,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Event(EventId),
    Eose,
    Closed(String),
    Count(usize),
}

impl Ear {
    /// The next message for this subscription.
    async fn hears(&mut self) -> Heard {
        let next = async {
            loop {
                let RelayNotification::Message { message } = self.notifications.recv().await.unwrap() else { continue };
                match message {
                    RelayMessage::Event { subscription_id, event } if *subscription_id == self.id => {
                        return Heard::Event(event.id);
                    }
                    RelayMessage::EndOfStoredEvents(id) if *id == self.id => return Heard::Eose,
                    RelayMessage::Closed { subscription_id, message } if *subscription_id == self.id => {
                        return Heard::Closed(message.into_owned());
                    }
                    RelayMessage::Count { subscription_id, count } if *subscription_id == self.id => {
                        return Heard::Count(count);
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("nothing came")
    }

    /// What lies here unread for any subscription; waits for nothing.
    fn unread(&mut self) -> Vec<(SubscriptionId, EventId)> {
        let mut unread = Vec::new();
        while let Ok(notification) = self.notifications.try_recv() {
            if let RelayNotification::Message { message: RelayMessage::Event { subscription_id, event } } = notification
            {
                unread.push((subscription_id.into_owned(), event.id));
            }
        }
        unread
    }
}

fn only(event: &Event) -> Vec<Event> {
    vec![event.clone()]
}

#[test]
fn an_event_is_found_by_id_author_kind_tag_and_time() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let other = Keys::generate().public_key();
        let note = user
            .publishes(EventBuilder::text_note("hello \u{1f426} \"quoted\"\n").tags([
                Tag::hashtag("ratite"),
                Tag::public_key(other),
                Tag::reference("https://example.org/?a=1&b=2"),
            ]))
            .await;
        user.publishes(EventBuilder::text_note("something else").custom_created_at(note.created_at - 10u64)).await;
        user.publishes(EventBuilder::new(Kind::Custom(1111), "another kind")).await;

        let notes = Filter::new().kind(Kind::TextNote);
        for filter in [
            Filter::new().id(note.id),
            Filter::new().hashtag("ratite"),
            Filter::new().pubkey(other),
            Filter::new().reference("https://example.org/?a=1&b=2"),
            notes.clone().author(user.keys.public_key()).since(note.created_at),
            notes.clone().limit(1),
            notes.clone().until(note.created_at).since(note.created_at),
        ] {
            assert_eq!(user.finds(filter.clone()).await, only(&note), "{filter:?}");
        }
        assert_eq!(user.finds(notes).await.len(), 2);
        assert_eq!(user.finds(Filter::new().author(user.keys.public_key())).await.len(), 3);
        assert!(user.finds_nothing(Filter::new().author(other)).await);
        assert!(user.finds_nothing(Filter::new().hashtag("Ratite")).await);
    });
}

#[test]
fn stored_events_come_before_eose_and_live_ones_after() {
    against(&TestRelay::start(), async |url| {
        let (reader, writer) = (User::new(&url).await, User::new(&url).await);
        let now = Timestamp::now();
        let mut stored = Vec::new();
        for age in 0..3u64 {
            stored.push(writer.publishes(EventBuilder::text_note("old").custom_created_at(now - age)).await.id);
        }
        let mut ear = reader.listens(Filter::new().author(writer.keys.public_key()).limit(2)).await;
        for id in &stored[..2] {
            assert_eq!(ear.hears().await, Heard::Event(*id), "newest first");
        }
        assert_eq!(ear.hears().await, Heard::Eose);
        reader.publishes(EventBuilder::text_note("of no interest")).await;
        // The limit is about stored events.
        for i in 0..3 {
            let live = writer.publishes(EventBuilder::text_note(format!("new {i}"))).await;
            assert_eq!(ear.hears().await, Heard::Event(live.id));
        }
    });
}

#[test]
fn a_newer_profile_takes_the_place_of_the_older_one() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let profile =
            |name: &str, at: u64| EventBuilder::metadata(&Metadata::new().name(name)).custom_created_at(at.into());
        let profiles = Filter::new().kind(Kind::Metadata).author(user.keys.public_key());
        let old = user.publishes(profile("old", 1_700_000_000)).await;
        assert_eq!(user.finds(profiles.clone()).await, only(&old));
        let new = user.publishes(profile("new", 1_700_000_001)).await;
        assert_eq!(user.finds(profiles.clone()).await, only(&new));
        assert!(user.finds_nothing(Filter::new().id(old.id)).await);

        let late = user.sign(profile("late", 1_699_999_999));
        assert!(user.is_refused(&late).await.starts_with("duplicate: "));
        assert_eq!(user.finds(profiles).await, only(&new));
    });
}

#[test]
fn an_article_is_replaced_under_its_own_identifier_only() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let article = |d: &str, at: u64, text: &str| {
            EventBuilder::long_form_text_note(text).tag(Tag::identifier(d)).custom_created_at(at.into())
        };
        user.publishes(article("one", 1_700_000_000, "draft")).await;
        let two = user.publishes(article("two", 1_700_000_000, "another")).await;
        let one = user.publishes(article("one", 1_700_000_005, "final")).await;
        let articles = Filter::new().kind(Kind::LongFormTextNote);
        assert_eq!(user.finds(articles.clone()).await, [one.clone(), two.clone()]);
        assert_eq!(user.finds(articles.clone().identifier("one")).await, only(&one));
        assert_eq!(user.finds(articles.identifier("two")).await, only(&two));
    });
}

#[test]
fn a_deletion_by_id_removes_the_event_and_it_never_comes_back() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let keep = user.publishes(EventBuilder::text_note("to be kept")).await;
        let note = user.publishes(EventBuilder::text_note("to be deleted")).await;
        let request = EventDeletionRequest::new().id(note.id).reason("a mistake");
        let deletion = user.publishes(EventBuilder::delete(request)).await;
        assert!(user.finds_nothing(Filter::new().id(note.id)).await);
        assert!(user.is_refused(&note).await.starts_with("blocked: "));
        assert!(user.finds_nothing(Filter::new().id(note.id)).await);
        assert_eq!(user.finds(Filter::new().kind(Kind::EventDeletion)).await, only(&deletion));
        assert_eq!(user.finds(Filter::new().kind(Kind::TextNote)).await, only(&keep));
    });
}

#[test]
fn a_deletion_by_address_removes_all_versions_up_to_its_time() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let article = |at: u64| {
            EventBuilder::long_form_text_note("text").tag(Tag::identifier("slug")).custom_created_at(at.into())
        };
        let address = Coordinate::new(Kind::LongFormTextNote, user.keys.public_key()).identifier("slug");
        let articles = Filter::new().kind(Kind::LongFormTextNote);
        let first = user.publishes(article(1_700_000_000)).await;
        let deletion = EventBuilder::delete(EventDeletionRequest::new().coordinate(address));
        user.publishes(deletion.custom_created_at(1_700_000_010.into())).await;
        assert!(user.finds_nothing(articles.clone()).await);
        assert!(user.is_refused(&first).await.starts_with("blocked: "));
        let other_version = user.sign(article(1_700_000_010));
        assert!(user.is_refused(&other_version).await.starts_with("blocked: "));
        let later = user.publishes(article(1_700_000_011)).await;
        assert_eq!(user.finds(articles).await, only(&later));
    });
}

#[test]
fn nobody_deletes_what_is_not_theirs() {
    against(&TestRelay::start(), async |url| {
        let (author, stranger) = (User::new(&url).await, User::new(&url).await);
        let note = author.publishes(EventBuilder::text_note("mine")).await;
        stranger.publishes(EventBuilder::delete(EventDeletionRequest::new().id(note.id))).await;
        assert_eq!(author.finds(Filter::new().id(note.id)).await, only(&note));
    });
}

#[test]
fn an_event_whose_time_is_up_is_refused() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let past = Tag::expiration(Timestamp::now() - 60u64);
        let expired = user.sign(EventBuilder::text_note("too late").tag(past));
        assert!(user.is_refused(&expired).await.starts_with("invalid: "));
        assert!(user.finds_nothing(Filter::new().id(expired.id)).await);
    });
}

#[test]
fn an_event_is_hidden_from_the_second_it_expires_in_and_then_removed() {
    let now = Timestamp::now();
    let clock = Clock::fixed(now.as_secs());
    let relay = TestRelay::at(clock.clone(), |_| {});
    against(&relay, async |url| {
        let user = User::new(&url).await;
        let until = now + 1000u64;
        let keep = user.publishes(EventBuilder::text_note("for long").custom_created_at(now)).await;
        let note = EventBuilder::text_note("for a while").tag(Tag::expiration(until)).custom_created_at(now - 1u64);
        let note = user.publishes(note).await;
        let notes = Filter::new().kind(Kind::TextNote);
        clock.set(until.as_secs() - 1);
        assert_eq!(user.finds(notes.clone()).await, [keep.clone(), note]);
        clock.set(until.as_secs());
        assert_eq!(user.finds(notes).await, only(&keep));
    });
    wire::eventually("the expired event is removed from the database", || {
        relay.relay.store().info().unwrap().events == 1
    });
    assert_eq!(relay.relay.store().verify().unwrap().faults, [""; 0]);
}

#[test]
fn an_ephemeral_event_reaches_who_listens_and_is_not_stored() {
    against(&TestRelay::start(), async |url| {
        let (reader, writer) = (User::new(&url).await, User::new(&url).await);
        let kind = Kind::Custom(20_001);
        let mut ear = reader.listens(Filter::new().kind(kind)).await;
        assert_eq!(ear.hears().await, Heard::Eose);
        let event = writer.publishes(EventBuilder::new(kind, "now or never")).await;
        assert_eq!(ear.hears().await, Heard::Event(event.id));
        assert!(reader.finds_nothing(Filter::new().kind(kind)).await);
        assert!(reader.finds_nothing(Filter::new().id(event.id)).await);
    });
}

#[test]
fn the_same_event_twice_is_fine_and_stored_once() {
    against(&TestRelay::start(), async |url| {
        let (user, other) = (User::new(&url).await, User::new(&url).await);
        let note = user.publishes(EventBuilder::text_note("once")).await;
        let mut ear = user.listens(Filter::new().kind(Kind::TextNote)).await;
        assert_eq!(ear.hears().await, Heard::Event(note.id));
        assert_eq!(ear.hears().await, Heard::Eose);
        other.relay.send_event(&note).await.unwrap();
        assert_eq!(user.finds(Filter::new()).await, only(&note));
        let next = other.publishes(EventBuilder::text_note("next")).await;
        assert_eq!(ear.hears().await, Heard::Event(next.id), "a duplicate is not news");
    });
}

#[test]
fn counting_gives_the_number_that_a_query_would() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        for i in 0..25 {
            user.publishes(EventBuilder::text_note(format!("{i}"))).await;
        }
        user.publishes(EventBuilder::new(Kind::Custom(1111), "")).await;
        let all = Filter::new().author(user.keys.public_key());
        assert_eq!(user.counts(Filter::new().kind(Kind::TextNote)).await, Heard::Count(25));
        assert_eq!(user.counts(all.clone()).await, Heard::Count(26));
        assert_eq!(user.counts(all.limit(3)).await, Heard::Count(26), "the limit is about what is sent");
        assert_eq!(user.counts(Filter::new().author(Keys::generate().public_key())).await, Heard::Count(0));
    });
}

#[test]
fn forged_events_are_refused() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let note = user.sign(EventBuilder::text_note("I owe you nothing"));
        let mut other_text = note.clone();
        other_text.content = "I owe you everything".into();
        assert!(user.is_refused(&other_text).await.starts_with("invalid: "), "the id does not fit");

        let other_author = EventBuilder::text_note("I owe you nothing").build(Keys::generate().public_key());
        let id = other_author.id.unwrap();
        let UnsignedEvent { pubkey, created_at, kind, tags, content, .. } = other_author;
        let borrowed = Event::new(id, pubkey, created_at, kind, tags, content, note.sig);
        assert!(user.is_refused(&borrowed).await.starts_with("invalid: "), "the signature does not fit");

        let future = Timestamp::now() + 86_400u64;
        let future = user.sign(EventBuilder::text_note("from tomorrow").custom_created_at(future));
        assert!(user.is_refused(&future).await.starts_with("invalid: "), "from the future");
        assert!(user.finds_nothing(Filter::new()).await);
    });
}

#[test]
fn two_users_talk_live() {
    against(&TestRelay::start(), async |url| {
        let (alice, bob) = (User::new(&url).await, User::new(&url).await);
        let to = |user: &User| Filter::new().pubkey(user.keys.public_key()).limit(0);
        let (mut alices, mut bobs) = (alice.listens(to(&alice)).await, bob.listens(to(&bob)).await);
        assert_eq!((alices.hears().await, bobs.hears().await), (Heard::Eose, Heard::Eose));
        let mention =
            |user: &User, text: String| EventBuilder::text_note(text).tag(Tag::public_key(user.keys.public_key()));
        for i in 0..10 {
            let (question, answer) = (mention(&bob, format!("question {i}")), mention(&alice, format!("answer {i}")));
            let (asked, answered) = tokio::join!(alice.publishes(question), bob.publishes(answer));
            assert_eq!(bobs.hears().await, Heard::Event(asked.id));
            assert_eq!(alices.hears().await, Heard::Event(answered.id));
        }
    });
}

#[test]
fn nothing_comes_for_a_subscription_that_was_ended() {
    against(&TestRelay::start(), async |url| {
        let (reader, writer) = (User::new(&url).await, User::new(&url).await);
        let notes = Filter::new().kind(Kind::TextNote);
        let mut ended = reader.listens(notes.clone()).await;
        assert_eq!(ended.hears().await, Heard::Eose);
        let before = writer.publishes(EventBuilder::text_note("before")).await;
        assert_eq!(ended.hears().await, Heard::Event(before.id));
        reader.relay.unsubscribe(&ended.id).await.unwrap();
        // The relay reads in order: when this answer is here, it has read the CLOSE.
        let mut open = reader.listens(notes.limit(0)).await;
        assert_eq!(open.hears().await, Heard::Eose);

        // Events are delivered in order: when the second is here, the first has been everywhere.
        let mut after = Vec::new();
        for text in ["after", "long after"] {
            let event = writer.publishes(EventBuilder::text_note(text)).await;
            assert_eq!(open.hears().await, Heard::Event(event.id));
            after.push((open.id.clone(), event.id));
        }
        assert_eq!(ended.unread(), after, "of both subscriptions' events only these came");
    });
}

#[test]
fn a_question_the_relay_cannot_answer_is_closed_with_a_reason() {
    against(&TestRelay::start(), async |url| {
        let user = User::new(&url).await;
        let mut ear = user.listens(Filter::new().search("bird")).await;
        let Heard::Closed(reason) = ear.hears().await else { panic!("an answer to a search") };
        assert!(reason.starts_with("unsupported: "), "{reason}");
    });
}

#[test]
fn the_information_document_is_one_that_the_sdk_reads() {
    let relay = TestRelay::with(|config| config.info.name = "test relay".into());
    let answer = wire::http(relay.address, b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/nostr+json\r\n\r\n");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let document: RelayInformationDocument = serde_json::from_str(body).unwrap();
    assert_eq!(document.name.as_deref(), Some("test relay"));
    for nip in [1, 9, 11, 40, 42, 45, 59, 62, 70] {
        assert!(document.supported_nips.as_ref().unwrap().contains(&nip), "NIP-{nip}");
    }
    let limits = document.limitation.unwrap();
    assert_eq!(limits.max_message_length, Some(131_072));
    assert_eq!(limits.max_limit, Some(5000));
}

/// The sdk authenticates by itself: when it is told `auth-required:`, or as soon as it is sent a challenge.
#[test]
fn private_messages_reach_their_recipient_who_authenticates_and_nobody_else() {
    let eager = TestRelay::on_free_port(|config, address| config.info.url = format!("ws://{address}"));
    for relay in [TestRelay::start(), eager] {
        against(&relay, async |url| {
            let (alice, bob, carol) = (User::new(&url).await, User::new(&url).await, User::new(&url).await);
            let me = |user: &User| user.keys.public_key();
            // Each wrap by a key of its own; what is inside is nobody's business here.
            let mut wraps = Vec::new();
            for n in 0..3 {
                let tag = Tag::public_key(me(&bob));
                let wrap = EventBuilder::new(Kind::GiftWrap, format!("sealed {n}")).tag(tag);
                let wrap = wrap.sign_with_keys(&Keys::generate()).unwrap();
                alice.relay.send_event(&wrap).await.unwrap();
                wraps.push(wrap.id);
            }
            let inbox = Filter::new().kind(Kind::GiftWrap).pubkey(me(&bob));
            let fetch = async |user: &User, filter: Filter| -> Vec<EventId> {
                let found = user.relay.fetch_events(filter, PATIENCE, ReqExitPolicy::ExitOnEOSE).await.unwrap();
                found.into_iter().map(|event| event.id).collect()
            };
            let mut found = fetch(&bob, inbox.clone()).await;
            found.sort();
            wraps.sort();
            assert_eq!(found, wraps);
            assert!(fetch(&carol, inbox.clone()).await.is_empty());
            assert!(fetch(&carol, Filter::new().ids(wraps.clone())).await.is_empty());
            assert_eq!(bob.counts(inbox.clone()).await, Heard::Count(3));
            assert_eq!(carol.counts(inbox.clone()).await, Heard::Count(0));

            // Live, to those who are known by now.
            let (mut hers, mut his) = (carol.listens(inbox.clone()).await, bob.listens(inbox.clone()).await);
            assert_eq!(hers.hears().await, Heard::Eose);
            while his.hears().await != Heard::Eose {}
            let late = EventBuilder::new(Kind::GiftWrap, "late").tag(Tag::public_key(me(&bob)));
            let late = late.sign_with_keys(&Keys::generate()).unwrap();
            alice.relay.send_event(&late).await.unwrap();
            assert_eq!(his.hears().await, Heard::Event(late.id));

            // A protected event is taken from its author, for whom the sdk answers the challenge.
            let protected = alice.sign(EventBuilder::text_note("mine").tag(Tag::protected()));
            assert!(carol.is_refused(&protected).await.starts_with("restricted"));
            alice.relay.send_event(&protected).await.unwrap();
            assert_eq!(alice.finds(Filter::new().author(me(&alice))).await, [protected]);
            for user in [alice, bob, carol] {
                user.client.shutdown().await;
            }
        });
    }
}

/// Who asks for nothing private is never bothered: where the relay does not know its own name, an AUTH would fail, and the sdk would
/// take that for a failed question.
#[test]
fn a_relay_that_does_not_know_its_name_serves_what_is_public() {
    // By this clock no AUTH is good.
    let relay = TestRelay::at(Clock::fixed(1_700_000_000), |config| config.limits.created_at_upper_limit = 0);
    against(&relay, async |url| {
        let user = User::new(&url).await;
        let note = user.publishes(EventBuilder::text_note("hello")).await;
        for _ in 0..20 {
            assert_eq!(user.finds(Filter::new().kind(Kind::TextNote)).await, std::slice::from_ref(&note));
        }
        user.client.shutdown().await;
    });
}

#[test]
fn thousands_of_events_from_many_clients_at_once_are_all_there() {
    const CLIENTS: usize = 4;
    const LINES: usize = 16;
    const EACH: usize = 64;
    let relay = TestRelay::start();
    against(&relay, async |url| {
        // The sdk drops what it is not asked for in time.
        let roomy = RelayOptions::new().notification_channel_size(4 * CLIENTS * LINES * EACH);
        let reader = User::with(&url, roomy).await;
        let mut ear = reader.listens(Filter::new().kind(Kind::TextNote)).await;
        assert_eq!(ear.hears().await, Heard::Eose);
        let listening = tokio::spawn(async move {
            let mut live = Vec::new();
            while live.len() < CLIENTS * LINES * EACH {
                let Heard::Event(id) = ear.hears().await else { panic!("the subscription ended") };
                live.push(id);
            }
            live
        });

        let mut publishers = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let user = std::sync::Arc::new(User::new(&url).await);
            for line in 0..LINES {
                let user = user.clone();
                publishers.spawn(async move {
                    let mut ids = Vec::new();
                    for i in 0..EACH {
                        let text = format!("{line}/{i} {}", "x".repeat(i * 10));
                        ids.push((user.keys.public_key(), user.publishes(EventBuilder::text_note(text)).await.id));
                    }
                    ids
                });
            }
        }
        let mut published: Vec<(PublicKey, EventId)> = publishers.join_all().await.concat();
        published.sort();

        let mut live = listening.await.unwrap();
        live.sort();
        let mut ids: Vec<EventId> = published.iter().map(|(_, id)| *id).collect();
        ids.sort();
        assert_eq!(live, ids, "each event was delivered live, once");

        let mut found = Vec::new();
        for author in published.chunk_by(|a, b| a.0 == b.0) {
            let events = reader.finds(Filter::new().author(author[0].0).limit(5000)).await;
            found.extend(events.iter().map(|event| (event.pubkey, event.id)));
        }
        found.sort();
        assert_eq!(found, published);
        let all = reader.finds(Filter::new().limit(5000)).await;
        assert_eq!(all.len(), CLIENTS * LINES * EACH);
    });
    let report = relay.relay.store().verify().unwrap();
    assert_eq!((report.events as usize, report.faults), (CLIENTS * LINES * EACH, vec![]));
}
