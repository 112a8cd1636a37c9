//! Step 12 of 12: which addresses a destination may have. Pure: judges addresses and names; resolves and connects
//! nowhere, that is for [`super::resolver`].
//!
//! Whoever may add a destination makes this process send requests, with answers that are shown: without a guard that
//! reaches what only this machine reaches (another service on loopback, a router's page, a cloud's metadata service).
//! So only what is global unicast in the IANA special-purpose address registries (RFC 6890, RFC 8190) is an address of
//! a destination. What is in a network of one's own is allowed by naming the network in the configuration
//! file, which only whoever runs the machine can write.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// A network, such as `192.168.7.0/24` or `fd00:7::/64`. One address is a network too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// Not an address with a prefix.
    #[error("{0:?} is no network: write an address, or one with a prefix such as 192.168.7.0/24")]
    Unreadable(String),
    /// Bits below the prefix.
    #[error("{0} names an address within a network: write {1}")]
    HostBits(String, Network),
    /// Everything.
    #[error(
        "{0} is every address there is, which would switch the guard off: name the networks that are meant"
    )]
    Everything(String),
}

impl Network {
    /// Just this address.
    pub fn only(address: IpAddr) -> Network {
        Network { address, prefix: bits(address) }
    }

    /// Whether the address is in it. One that only wraps an IPv4 address is in the networks of that.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        bits(address) == bits(self.address) && masked(address, self.prefix) == self.address
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        let unreadable = || BadNetwork::Unreadable(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| unreadable())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| unreadable())?;
        let prefix = prefix.unwrap_or(bits(address));
        if prefix > bits(address) {
            return Err(unreadable());
        }
        if prefix == 0 {
            return Err(BadNetwork::Everything(text.to_owned()));
        }
        let network = Network { address: masked(address, prefix), prefix };
        if network.address != address {
            return Err(BadNetwork::HostBits(text.to_owned(), network));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = BadNetwork;

    fn try_from(text: String) -> Result<Network, BadNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

/// What a destination may reach beyond the public internet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guard {
    allowed: Vec<Network>,
}

/// An address that no destination may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is {what}: nothing is sent there unless allow_networks in [destinations] of the configuration file names its \
     network, such as {suggestion}"
)]
pub struct Forbidden {
    /// Which, or the name.
    pub address: String,
    /// What it is instead of a public address.
    pub what: &'static str,
    /// What one would allow.
    pub suggestion: Network,
}

impl Guard {
    /// These networks are allowed, beside all that is public.
    pub fn allowing(networks: impl IntoIterator<Item = Network>) -> Guard {
        Guard { allowed: networks.into_iter().collect() }
    }

    /// These networks too.
    pub fn and(mut self, networks: impl IntoIterator<Item = Network>) -> Guard {
        self.allowed.extend(networks);
        self
    }

    /// What this address itself names as a literal, or as `localhost`, is allowed too: for an address in the
    /// configuration, which only whoever runs this machine can write. A name is not: whom it leads to, others say.
    pub fn named_by(self, url: &Url) -> Guard {
        match url.host() {
            Some(Host::Ipv4(address)) => self.and([Network::only(address.into())]),
            Some(Host::Ipv6(address)) => self.and([Network::only(unwrapped(address.into()))]),
            Some(Host::Domain("localhost")) => {
                let loopback = Network { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8 };
                self.and([loopback, Network::only(Ipv6Addr::LOCALHOST.into())])
            }
            Some(Host::Domain(_)) | None => self,
        }
    }

    /// Whether a request may go where this address leads, as far as the address itself tells: a literal one is judged,
    /// however it is spelt, and a name by [`Guard::check_name`].
    pub fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into()),
            Some(Host::Ipv6(address)) => self.check(address.into()),
            Some(Host::Domain(name)) => self.check_name(name),
            None => Ok(()),
        }
    }

    /// Whether a request may go to this address.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        let Some(what) = not_public(unwrapped(address)) else { return Ok(()) };
        if self.allowed.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        Err(Forbidden { address: address.to_string(), what, suggestion: Network::only(unwrapped(address)) })
    }

    /// Whether a request may go to a host of this name, as far as the name tells: `localhost` and everything below it
    /// is this machine whatever a resolver says (RFC 6761 §6.3). All other names are judged by their addresses.
    pub fn check_name(&self, name: &str) -> Result<(), Forbidden> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name != "localhost" && !name.ends_with(".localhost") {
            return Ok(());
        }
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        if loopback.iter().any(|address| self.check(*address).is_ok()) {
            return Ok(());
        }
        Err(Forbidden { address: name, what: "this machine itself", suggestion: Network::only(loopback[0]) })
    }

    /// Whether requests may go to all of these, which are the answers for one name: one that may not be reached spoils
    /// them all, because whoever mixes them means no good.
    pub fn check_all(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), Forbidden> {
        addresses.into_iter().try_for_each(|address| self.check(address))
    }
}

/// The IPv4 address behind an IPv6 address that stands for one: mapped (`::ffff:a.b.c.d`), or translated by the
/// well-known NAT64 prefix (`64:ff9b::/96`, RFC 6052). A connection to it ends at that one.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into()
        }
        _ => address,
    }
}

/// What the address is, if it is not global unicast.
fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => not_public_v4(v4),
        IpAddr::V6(v6) => not_public_v6(v6),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    const BLOCKS: [([u8; 4], u8, &str); 15] = [
        ([0, 0, 0, 0], 8, "this machine itself"),
        ([10, 0, 0, 0], 8, "private"),
        ([100, 64, 0, 0], 10, "shared by a carrier"),
        ([127, 0, 0, 0], 8, "this machine itself"),
        ([169, 254, 0, 0], 16, "link-local, where clouds have their metadata"),
        ([172, 16, 0, 0], 12, "private"),
        ([192, 0, 0, 0], 24, "reserved for protocols"),
        ([192, 0, 2, 0], 24, "for documentation"),
        ([192, 88, 99, 0], 24, "a relay of old"),
        ([192, 168, 0, 0], 16, "private"),
        ([198, 18, 0, 0], 15, "for benchmarks"),
        ([198, 51, 100, 0], 24, "for documentation"),
        ([203, 0, 113, 0], 24, "for documentation"),
        ([224, 0, 0, 0], 4, "multicast"),
        ([240, 0, 0, 0], 4, "reserved"),
    ];
    let is_in = |block: [u8; 4], prefix| masked(address.into(), prefix) == IpAddr::V4(block.into());
    BLOCKS.into_iter().find(|(block, prefix, _)| is_in(*block, *prefix)).map(|(_, _, what)| what)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    const BLOCKS: [([u16; 8], u8, &str); 12] = [
        ([0, 0, 0, 0, 0, 0, 0, 1], 128, "this machine itself"),
        ([0, 0, 0, 0, 0, 0, 0, 0], 128, "this machine itself"),
        ([0, 0, 0, 0, 0, 0, 0, 0], 96, "an IPv4 address in disguise"),
        ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "an IPv4 address in disguise"),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
        ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved for protocols"),
        ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "an IPv4 address in disguise"),
        ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
        ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private"),
        ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
        ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "private"),
        ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
    ];
    let is_in = |block: [u16; 8], prefix| masked(address.into(), prefix) == IpAddr::V6(block.into());
    let block = BLOCKS.into_iter().find(|(block, prefix, _)| is_in(*block, *prefix)).map(|(_, _, what)| what);
    // Of all of IPv6, only 2000::/3 has been given out.
    block.or_else(|| (!is_in([0x2000, 0, 0, 0, 0, 0, 0, 0], 3)).then_some("reserved"))
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first `prefix` bits of the address, zeros after them.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn public(address: &str) {
        assert_eq!(Guard::default().check(address.parse().unwrap()), Ok(()), "{address}");
    }

    #[track_caller]
    fn refused(address: &str, what: &str) {
        let forbidden = Guard::default().check(address.parse().unwrap()).unwrap_err();
        assert_eq!(forbidden.what, what, "{address}");
    }

    #[test]
    fn what_is_public_may_be_reached() {
        for address in ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.9.9"]
        {
            public(address);
        }
        for address in
            ["172.32.0.1", "192.0.1.1", "192.169.0.1", "198.17.1.1", "198.20.0.1", "223.255.255.255"]
        {
            public(address);
        }
        for address in
            ["2001:200::1", "2001:db9::1", "2606:4700::1111", "2a00:1450::1", "3ffe::1", "::ffff:8.8.8.8"]
        {
            public(address);
        }
        public("64:ff9b::808:808");
    }

    #[test]
    fn what_is_not_public_is_refused_and_called_by_its_name() {
        refused("0.0.0.0", "this machine itself");
        refused("0.1.2.3", "this machine itself");
        refused("10.0.0.1", "private");
        refused("10.255.255.255", "private");
        refused("100.64.0.1", "shared by a carrier");
        refused("100.127.255.255", "shared by a carrier");
        refused("127.0.0.1", "this machine itself");
        refused("127.255.255.254", "this machine itself");
        refused("169.254.169.254", "link-local, where clouds have their metadata");
        refused("172.16.0.1", "private");
        refused("172.31.255.255", "private");
        refused("192.0.0.8", "reserved for protocols");
        refused("192.0.2.1", "for documentation");
        refused("192.88.99.1", "a relay of old");
        refused("192.168.1.1", "private");
        refused("198.18.0.1", "for benchmarks");
        refused("198.19.255.255", "for benchmarks");
        refused("198.51.100.7", "for documentation");
        refused("203.0.113.7", "for documentation");
        refused("224.0.0.1", "multicast");
        refused("239.255.255.255", "multicast");
        refused("240.0.0.1", "reserved");
        refused("255.255.255.255", "reserved");
        refused("::", "this machine itself");
        refused("::1", "this machine itself");
        refused("::7f00:1", "an IPv4 address in disguise");
        refused("::ffff:127.0.0.1", "this machine itself");
        refused("::ffff:a9fe:a9fe", "link-local, where clouds have their metadata");
        refused("64:ff9b::7f00:1", "this machine itself");
        refused("64:ff9b::10.0.0.1", "private");
        refused("64:ff9b:1::808:808", "an IPv4 address in disguise");
        refused("100::1", "reserved");
        refused("2001::1", "reserved for protocols");
        refused("2001:2::1", "reserved for protocols");
        refused("2001:db8::1", "for documentation");
        refused("2002:7f00:1::", "an IPv4 address in disguise");
        refused("3fff::1", "for documentation");
        refused("4000::1", "reserved");
        refused("fc00::1", "private");
        refused("fd12:3456::1", "private");
        refused("fe80::1", "link-local");
        refused("fec0::1", "private");
        refused("ff02::1", "multicast");
    }

    #[test]
    fn a_network_that_is_named_is_allowed_and_nothing_beside_it() {
        let guard = Guard::allowing(["192.168.7.0/24".parse().unwrap(), "fd00:7::/64".parse().unwrap()]);
        let may = |address: &str| guard.check(address.parse().unwrap()).is_ok();
        assert!(may("192.168.7.1") && may("192.168.7.255") && may("::ffff:192.168.7.9") && may("fd00:7::9"));
        assert!(!may("192.168.6.255") && !may("192.168.8.0") && !may("fd00:7:0:1::") && !may("127.0.0.1"));
        assert!(guard.check_name("localhost").is_err());
        let guard = guard.and(["127.0.0.0/8".parse().unwrap()]);
        assert!(guard.check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(guard.check_name("localhost").is_ok());
    }

    #[test]
    fn one_address_that_may_not_be_reached_spoils_all_answers_for_a_name() {
        let answers = ["1.1.1.1", "10.0.0.1"].map(|address| address.parse().unwrap());
        assert!(Guard::default().check_all(answers).is_err());
        assert!(Guard::allowing(["10.0.0.1".parse().unwrap()]).check_all(answers).is_ok());
        assert!(Guard::default().check_all([]).is_ok());
    }

    #[test]
    fn localhost_is_this_machine_under_all_its_names() {
        for name in ["localhost", "LocalHost", "localhost.", "a.b.localhost", "x.LOCALHOST."] {
            assert!(Guard::default().check_name(name).is_err(), "{name}");
        }
        for name in ["localhost.example", "notlocalhost", "example.org"] {
            assert!(Guard::default().check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_literal_address_is_seen_through_every_spelling() {
        for host in [
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "0x7f.1",
            "127.0.0.1.",
            "①27.0.0.1",
        ] {
            let url: Url = format!("http://{host}/").parse().unwrap();
            let forbidden = Guard::default().check_url(&url).unwrap_err();
            assert_eq!(
                (forbidden.address.as_str(), forbidden.what),
                ("127.0.0.1", "this machine itself"),
                "{host}"
            );
        }
        for host in
            ["[::1]", "[0:0::0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "LOCALHOST", "a.localhost."]
        {
            let url: Url = format!("http://{host}/").parse().unwrap();
            assert!(Guard::default().check_url(&url).is_err(), "{host}");
        }
        assert!(Guard::default().check_url(&"https://hr.example.com/".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_address_in_the_configuration_is_allowed_and_no_more() {
        let guard = |url: &str| Guard::default().named_by(&url.parse().unwrap());
        let may = |url: &str, address: &str| guard(url).check(address.parse().unwrap()).is_ok();
        assert!(may("http://10.1.2.3:8080/", "10.1.2.3") && !may("http://10.1.2.3:8080/", "10.1.2.4"));
        assert!(may("http://[::ffff:10.1.2.3]/", "10.1.2.3") && may("http://[fd00::1]/", "fd00::1"));
        assert!(may("http://localhost/", "127.0.0.53") && may("http://localhost/", "::1"));
        assert!(!may("http://hr.example.com/", "10.1.2.3") && !may("http://a.localhost/", "127.0.0.1"));
        assert!(guard("http://localhost/").check_name("localhost").is_ok());
    }

    #[test]
    fn the_refusal_says_what_to_write() {
        let forbidden = Guard::default().check("::ffff:10.1.2.3".parse().unwrap()).unwrap_err();
        assert_eq!(
            forbidden.to_string(),
            "::ffff:10.1.2.3 is private: nothing is sent there unless allow_networks in [destinations] of the configuration \
             file names its network, such as 10.1.2.3/32"
        );
    }

    #[test]
    fn networks_are_read_strictly() {
        let read = |text: &str| text.parse::<Network>().map(|network| network.to_string());
        assert_eq!(read("10.0.0.0/8").unwrap(), "10.0.0.0/8");
        assert_eq!(read("10.1.2.3").unwrap(), "10.1.2.3/32");
        assert_eq!(read("fd00::/8").unwrap(), "fd00::/8");
        assert_eq!(read("::1").unwrap(), "::1/128");
        let complaint = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(complaint("10.0.0.1/8"), "10.0.0.1/8 names an address within a network: write 10.0.0.0/8");
        for text in
            ["", "ten", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "0x7f.0.0.1", "010.0.0.1"]
        {
            assert!(complaint(text).contains("is no network"), "{text}");
        }
        assert!(complaint("0.0.0.0/0").contains("switch the guard off"));
    }
}
