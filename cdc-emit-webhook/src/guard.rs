//! The egress guard: which addresses a webhook may connect to.
//!
//! A URL in a configuration, or a name whose owner changes where it points, must not turn the
//! emitter into a way to reach what only this machine can reach. So names are resolved first, every
//! address is judged here, and the connection goes to exactly an address that was judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Public addresses.
    Public,
    /// Public and private addresses.
    Private,
    /// Loopback, because the URL says so in as many words.
    Loopback,
}

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Public,
    Loopback,
    /// Reachable in private networks; the word is for messages.
    Private(&'static str),
    /// Never a receiver; the word is for messages.
    Never(&'static str),
}

impl Policy {
    /// Judges one address; the error says what kind of address it is.
    pub(crate) fn check(self, address: IpAddr) -> Result<(), &'static str> {
        match (place(address), self) {
            (Place::Public, Self::Public | Self::Private)
            | (Place::Loopback, Self::Loopback | Self::Private)
            | (Place::Private(_), Self::Private) => Ok(()),
            (Place::Public, Self::Loopback) => Err("not loopback"),
            (Place::Loopback, Self::Public) => Err("loopback"),
            (Place::Private(kind) | Place::Never(kind), _) => Err(kind),
        }
    }
}

/// What kind of address this is if no webhook is sent there, and whether `allow_private` changes that; `None`
/// for public addresses. Loopback needs no permission in a URL that names it.
pub fn refusal(address: IpAddr) -> Option<(&'static str, bool)> {
    match place(address) {
        Place::Public | Place::Loopback => None,
        Place::Private(kind) => Some((kind, true)),
        Place::Never(kind) => Some((kind, false)),
    }
}

/// Sorts an address.
pub(crate) fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => place_v4(v4),
        IpAddr::V6(v6) => place_v6(v6),
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    match address.octets() {
        // Metadata and platform services of clouds that lie outside 169.254/16.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => {
            Place::Never("a cloud's metadata")
        }
        [0, ..] => Place::Never("unspecified"),
        [127, ..] => Place::Loopback,
        [169, 254, ..] => Place::Never("link-local"),
        [224..=239, ..] => Place::Never("multicast"),
        [240..=255, ..] => Place::Never("reserved or broadcast"),
        [192, 88, 99, _] => Place::Never("a 6to4 relay"),
        [10, ..] | [192, 168, ..] => Place::Private("private"),
        [172, b, ..] if b & 0xf0 == 16 => Place::Private("private"),
        [100, b, ..] if b & 0xc0 == 64 => Place::Private("shared (carrier-grade NAT)"),
        [192, 0, 0, _] => Place::Private("for protocol assignments"),
        [198, 18 | 19, ..] => Place::Private("for benchmarks"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Place::Private("for documentation")
        }
        _ => Place::Public,
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        place_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Place::Never("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Place::Loopback,
        // IPv4 in disguise is what it disguises: mapped, translated, NAT64.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => Place::Private("for local NAT64"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Place::Never("a cloud's metadata"),
        [0xfe80..=0xfebf, ..] => Place::Never("link-local"),
        [0xfec0..=0xfeff, ..] => Place::Private("site-local"),
        [0xff00..=0xffff, ..] => Place::Never("multicast"),
        [0xfc00..=0xfdff, ..] => Place::Private("private"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Place::Private("for documentation"),
        // Teredo, ORCHID, benchmarks and other assignments: tunnels lead anywhere.
        [0x2001, 0..=0x1ff, ..] => Place::Never("a tunnel or protocol assignment"),
        [0x2002, ..] => Place::Never("a 6to4 tunnel"),
        [0x2000..=0x3fff, ..] => Place::Public,
        _ => Place::Never("reserved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_addresses_are_refused() {
        let loopback = [
            "127.0.0.1",
            "127.0.0.2",
            "127.255.255.255",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "::ffff:0:127.0.0.1",
        ];
        let private = [
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.168.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.1",
            "192.0.0.171",
            "198.18.0.1",
            "198.19.255.255",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "::ffff:10.0.0.1",
            "::ffff:192.168.1.1",
            "::ffff:100.64.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "::ffff:0:10.0.0.1",
            "fc00::1",
            "fd12:3456:789a::1",
            "fdff:ffff::1",
            "fec0::1",
            "2001:db8::1",
            "3fff::1",
        ];
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "192.88.99.1",
            "::",
            "::ffff:0.0.0.0",
            "::ffff:169.254.169.254",
            "::ffff:224.0.0.1",
            "::ffff:255.255.255.255",
            "64:ff9b::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::ffff:168.63.129.16",
            "::7f00:1",
            "::a00:1",
            "::2",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "ff0e::1",
            "fd00:ec2::254",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:808:808::1",
            "2001::1",
            "2001:0:53aa:64c::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "100::1",
            "5f00::1",
            "4000::1",
            "e000::1",
            "1::1",
            "64:ff9b:2::1",
            "0:0:0:1::1",
        ];
        assert!(loopback.len() + private.len() + never.len() >= 60);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        for text in loopback {
            assert_eq!(Policy::Public.check(at(text)), Err("loopback"), "{text}");
            assert!(Policy::Loopback.check(at(text)).is_ok(), "{text}");
            assert!(Policy::Private.check(at(text)).is_ok(), "{text}");
        }
        for text in private {
            assert!(Policy::Public.check(at(text)).is_err(), "{text}");
            assert!(Policy::Loopback.check(at(text)).is_err(), "{text}");
            assert!(Policy::Private.check(at(text)).is_ok(), "{text}");
        }
        for text in never {
            for policy in [Policy::Public, Policy::Loopback, Policy::Private] {
                assert!(policy.check(at(text)).is_err(), "{text} {policy:?}");
            }
        }
    }

    #[test]
    fn public_addresses_pass() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2600::1",
            "2606:4700:4700::1111",
            "2a00:1450:4001::200e",
            "2001:4860:4860::8888",
            "2001:200::1",
            "3fff:1000::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            let address = text.parse().unwrap();
            assert!(Policy::Public.check(address).is_ok(), "{text}");
            assert!(Policy::Private.check(address).is_ok(), "{text}");
            assert_eq!(
                Policy::Loopback.check(address),
                Err("not loopback"),
                "{text}"
            );
        }
    }
}
