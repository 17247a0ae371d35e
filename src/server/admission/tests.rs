//! Buckets, penalties and bounded tables, on a clock of their own.

use super::*;

/// Limits for tests: nobody is exempt, and what a test does not set has no limit.
fn rates(change: impl FnOnce(&mut Rates)) -> Rates {
    let mut rates = Rates {
        exempt: Vec::new(),
        connections: 0,
        new_connections: 0,
        messages: 0,
        message_bytes: 0,
        events: 0,
        reqs: 0,
        counts: 0,
        events_per_author: 0,
        events_per_author_by_kind: Vec::new(),
        ..Rates::default()
    };
    change(&mut rates);
    rates
}

/// A limiter and its clock.
struct Bench {
    limiter: Arc<Limiter>,
    now: Instant,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Rates)) -> Bench {
        let now = Instant::now();
        Bench { limiter: Limiter::new(&rates(change), now), now }
    }

    fn after(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn enter(&self, address: &str) -> Result<Guest, Refusal> {
        self.limiter.enter(Some(address.parse().unwrap()), self.now)
    }

    fn guest(&self, address: &str) -> Guest {
        self.enter(address).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    fn req(&self, guest: &Guest) -> Result<(), Excess> {
        guest.charge(Some(Resource::Reqs), 100, self.now)
    }
}

#[test]
fn a_minutes_worth_at_once_and_then_as_it_refills() {
    let mut bench = Bench::new(|rates| rates.reqs = 60);
    let guest = bench.guest("203.0.113.1");
    for _ in 0..60 {
        assert_eq!(bench.req(&guest), Ok(()));
    }
    let excess = bench.req(&guest).unwrap_err();
    assert_eq!((excess.resource, excess.wait, excess.enough), (Resource::Reqs, 1, false));
    bench.after(1.0);
    assert_eq!(bench.req(&guest), Ok(()));
    assert!(bench.req(&guest).is_err());
    bench.after(3600.0);
    for _ in 0..60 {
        assert_eq!(bench.req(&guest), Ok(()));
    }
    assert!(bench.req(&guest).is_err(), "a bucket holds no more than a minute's worth");
    assert_eq!(bench.limiter.refused().messages(Resource::Reqs), 3);
}

#[test]
fn each_resource_has_its_own_bucket_and_messages_count_them_all() {
    let bench = Bench::new(|rates| {
        rates.events = 2;
        rates.reqs = 2;
        rates.counts = 1;
        rates.messages = 6;
    });
    let guest = bench.guest("203.0.113.1");
    let charge = |what| guest.charge(what, 10, bench.now).map_err(|excess| excess.resource);
    assert_eq!(charge(Some(Resource::Events)), Ok(()));
    assert_eq!(charge(Some(Resource::Events)), Ok(()));
    assert_eq!(charge(Some(Resource::Events)), Err(Resource::Events));
    assert_eq!(charge(Some(Resource::Counts)), Ok(()));
    assert_eq!(charge(Some(Resource::Counts)), Err(Resource::Counts));
    assert_eq!(charge(None), Ok(()));
    assert_eq!(charge(None), Err(Resource::Messages));
    assert_eq!(charge(Some(Resource::Reqs)), Err(Resource::Messages));
}

#[test]
fn bytes_are_counted() {
    let mut bench = Bench::new(|rates| rates.message_bytes = 6000);
    let guest = bench.guest("203.0.113.1");
    assert_eq!(guest.charge(None, 4000, bench.now), Ok(()));
    let excess = guest.charge(None, 4000, bench.now).unwrap_err();
    assert_eq!((excess.resource, excess.wait), (Resource::Bytes, 20));
    assert_eq!(guest.charge(None, 2000, bench.now), Ok(()), "what was refused has cost nothing");
    bench.after(40.0);
    assert_eq!(guest.charge(None, 4000, bench.now), Ok(()));
}

#[test]
fn connections_of_one_address_share_and_those_of_others_do_not() {
    let bench = Bench::new(|rates| rates.reqs = 1);
    let (one, two, other) = (bench.guest("203.0.113.1"), bench.guest("203.0.113.1"), bench.guest("203.0.113.2"));
    assert_eq!(bench.req(&one), Ok(()));
    assert!(bench.req(&two).is_err());
    assert_eq!(bench.req(&other), Ok(()));
    let mapped = bench.guest("::ffff:203.0.113.1");
    assert!(bench.req(&mapped).is_err(), "the same address inside IPv6");
}

#[test]
fn an_ipv6_customer_is_one_address() {
    let bench = Bench::new(|rates| rates.reqs = 1);
    assert_eq!(bench.req(&bench.guest("2001:db8:0:1::1")), Ok(()));
    assert!(bench.req(&bench.guest("2001:db8:0:1:ffff:ffff:ffff:ffff")).is_err());
    assert_eq!(bench.req(&bench.guest("2001:db8:0:2::1")), Ok(()));
}

#[test]
fn h241_open_connections_are_bounded_and_given_back() {
    let bench = Bench::new(|rates| rates.connections = 2);
    let first = bench.guest("203.0.113.1");
    let _second = bench.guest("203.0.113.1");
    assert_eq!(bench.enter("203.0.113.1").err(), Some(Refusal::TooMany));
    assert!(bench.enter("203.0.113.2").is_ok(), "other addresses are served");
    drop(first);
    assert!(bench.enter("203.0.113.1").is_ok());
    assert_eq!(bench.limiter.refused().too_many.load(Ordering::Relaxed), 1);
}

#[test]
fn new_connections_have_a_rate() {
    let mut bench = Bench::new(|rates| rates.new_connections = 30);
    for _ in 0..30 {
        drop(bench.guest("203.0.113.1"));
    }
    assert_eq!(bench.enter("203.0.113.1").err(), Some(Refusal::TooFast(2)));
    bench.after(2.0);
    assert!(bench.enter("203.0.113.1").is_ok());
}

#[test]
fn the_exempt_and_the_nameless_have_no_limits() {
    let bench = Bench::new(|rates| {
        rates.connections = 1;
        rates.reqs = 1;
        rates.events_per_author = 1;
        rates.exempt = vec!["10.0.0.0/8".parse().unwrap()];
    });
    let nameless = || bench.limiter.enter(None, bench.now).ok().unwrap();
    for guest in [bench.guest("10.0.0.1"), bench.guest("10.0.0.1"), nameless(), nameless()] {
        assert!(!guest.is_limited());
        for _ in 0..100 {
            assert_eq!(bench.req(&guest), Ok(()));
            assert!(guest.charge_author(&PublicKey([1; 32]), Kind(1), bench.now).is_ok());
        }
    }
    assert_eq!(bench.limiter.addresses(), 0);
}

#[test]
fn who_goes_on_is_shut_out_for_longer_and_longer() {
    let mut bench = Bench::new(|rates| {
        rates.reqs = 60;
        rates.penalty = 10;
        rates.max_penalty = 60;
    });
    let mut guest = bench.guest("203.0.113.1");
    let neighbour = bench.guest("203.0.113.1");
    for expected in [10, 20, 40, 60, 60] {
        let mut refusals = 0;
        while !bench.req(&guest).is_err_and(|excess| excess.enough) {
            refusals += 1;
            assert!(refusals < 1000);
        }
        assert!(refusals >= FORGIVEN as u32, "a burst is forgiven: {refusals}");
        assert_eq!(bench.enter("203.0.113.1").err(), Some(Refusal::ShutOut(expected)));
        assert!(bench.enter("203.0.113.2").is_ok());
        bench.after(expected as f64);
        assert_eq!(bench.req(&neighbour), Ok(()), "who stays within the limits stays");
        guest = bench.guest("203.0.113.1");
    }
    // An hour and a half of peace: all five are forgiven.
    bench.after(5400.0);
    while !bench.req(&guest).is_err_and(|excess| excess.enough) {}
    assert_eq!(bench.enter("203.0.113.1").err(), Some(Refusal::ShutOut(10)));
    assert_eq!(bench.limiter.refused().penalties.load(Ordering::Relaxed), 6);
}

#[test]
fn knocking_while_shut_out_counts() {
    let mut bench = Bench::new(|rates| {
        rates.new_connections = 1;
        rates.penalty = 10;
    });
    drop(bench.guest("203.0.113.1"));
    let mut longest = 0;
    for _ in 0..2000 {
        if let Err(Refusal::ShutOut(wait)) = bench.enter("203.0.113.1").map(drop) {
            longest = longest.max(wait);
        }
        bench.after(0.01);
    }
    assert!(longest > 20, "{longest}");
}

#[test]
fn an_author_has_one_rate_wherever_the_events_come_from() {
    let mut bench = Bench::new(|rates| {
        rates.events_per_author = 60;
        rates.events_per_author_by_kind = vec!["7=120".parse().unwrap(), "20000-29999=0".parse().unwrap()];
    });
    let (here, there) = (bench.guest("203.0.113.1"), bench.guest("203.0.113.2"));
    let (alice, bob) = (PublicKey([1; 32]), PublicKey([2; 32]));
    for i in 0..60 {
        let guest = if i % 2 == 0 { &here } else { &there };
        drop(guest.charge_author(&alice, Kind(1), bench.now).unwrap());
    }
    let excess = there.charge_author(&alice, Kind(3), bench.now).err().unwrap();
    assert_eq!((excess.resource, excess.wait), (Resource::Author, 1));
    assert!(here.charge_author(&bob, Kind(1), bench.now).is_ok());
    for _ in 0..120 {
        drop(here.charge_author(&alice, Kind(7), bench.now).unwrap());
    }
    assert!(here.charge_author(&alice, Kind(7), bench.now).is_err());
    for _ in 0..1000 {
        drop(here.charge_author(&alice, Kind(20_001), bench.now).unwrap());
    }
    bench.after(1.0);
    assert!(here.charge_author(&alice, Kind(1), bench.now).is_ok());
}

#[test]
fn forged_events_use_up_nobodys_rate() {
    let bench = Bench::new(|rates| rates.events_per_author = 2);
    let guest = bench.guest("203.0.113.1");
    let alice = PublicKey([1; 32]);
    for _ in 0..100 {
        guest.charge_author(&alice, Kind(1), bench.now).unwrap().take_back();
    }
    drop(guest.charge_author(&alice, Kind(1), bench.now).unwrap());
    drop(guest.charge_author(&alice, Kind(1), bench.now).unwrap());
    assert!(guest.charge_author(&alice, Kind(1), bench.now).is_err());
}

#[test]
fn the_tables_are_bounded_and_forget_the_harmless_first() {
    let mut bench = Bench::new(|rates| {
        rates.new_connections = 60;
        rates.connections = 3;
        rates.events_per_author = 60;
        rates.remembered = 1000;
        rates.penalty = 3600;
    });
    let address = |i: u32| Ipv4Addr::from(0x0a00_0000 + i).to_string();
    let open: Vec<Guest> = (0..10).map(|i| bench.guest(&address(i))).collect();
    // One who is shut out must not come back by having itself forgotten.
    let bad = address(10);
    while !matches!(bench.enter(&bad), Err(Refusal::ShutOut(_))) {}
    for i in 11..20_000 {
        drop(bench.guest(&address(i)));
        assert!(bench.limiter.addresses() <= 1010 + 125, "{}", bench.limiter.addresses());
        bench.after(0.0001);
    }
    assert!(matches!(bench.enter(&bad), Err(Refusal::ShutOut(_))));
    for i in 0..10 {
        let more: Vec<_> = (0..2).map(|_| bench.guest(&address(i))).collect();
        assert_eq!(bench.enter(&address(i)).err(), Some(Refusal::TooMany), "what is open is not forgotten");
        drop(more);
    }
    drop(open);
    let guest = bench.guest("203.0.113.1");
    for i in 0..20_000u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&i.to_be_bytes());
        drop(guest.charge_author(&PublicKey(key), Kind(1), bench.now).unwrap());
        assert!(bench.limiter.authors() <= 1000);
    }
    // When everybody's buckets are full again nobody needs to be known.
    bench.after(7200.0);
    for i in 0..2000 {
        drop(bench.guest(&address(i)));
    }
    assert!(bench.limiter.addresses() <= 1000 + 125, "{}", bench.limiter.addresses());
}

#[test]
fn an_address_takes_little_memory() {
    // With the counts and the list entry this is what `rates.remembered` speaks of. Before growing it, change that.
    let counted = size_of::<Entry>() + 2 * size_of::<usize>();
    // A map's table is between 7/16 and 7/8 full.
    let listed = (size_of::<(Source, Arc<Entry>)>() + 1) * 16 / 7;
    assert!(counted + listed <= 200, "{counted} + {listed} bytes");
    let author = (size_of::<(Author, Bucket)>() + 1) * 16 / 7;
    assert!(author <= 70, "{author} bytes");
}
