//! Links between regions, as commands shape them.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use clap::Args;

use crate::{
    Error, Lab,
    config::{SERVICES, SERVICES_NUMBER},
    error::Attempt,
    init::DONE,
    network,
    state::{Files, Link, State},
    wan::{MILLION, Shape, Way},
};

/// What shall be otherwise on a link; the rest stays.
#[derive(Args, Clone, Copy, Debug, Default)]
#[group(required = true, multiple = true)]
pub struct LinkShape {
    /// Round-trip time, like 90ms: half of it each way
    #[arg(long, value_name = "TIME", value_parser = insula_types::definition::parse_duration)]
    pub rtt: Option<Duration>,
    /// Up to so much more each way, at random; packets keep their order
    #[arg(long, value_name = "TIME", value_parser = insula_types::definition::parse_duration)]
    pub jitter: Option<Duration>,
    /// Share of packets that are lost each way, like 0.1%
    #[arg(long = "loss", value_name = "PERCENT", value_parser = parse_loss)]
    pub loss_ppm: Option<u32>,
    /// Bits per second each way, like 100Mb/s, or none
    #[arg(long, value_parser = parse_rate)]
    pub rate: Option<Rate>,
}

/// Bits per second; none: as fast as the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl LinkShape {
    fn change(self, shape: &mut Shape) {
        shape.delay = self.rtt.map_or(shape.delay, |rtt| rtt / 2);
        shape.jitter = self.jitter.unwrap_or(shape.jitter);
        shape.loss_ppm = self.loss_ppm.unwrap_or(shape.loss_ppm);
        shape.rate = self.rate.map_or(shape.rate, |Rate(rate)| rate);
    }
}

/// Tenths of a thousandth of a percent: the share of a million.
fn parse_loss(text: &str) -> Result<u32, String> {
    let expected = || format!("{text:?} is no share of packets: write it like 0.1%");
    let share: f64 = text.strip_suffix('%').ok_or_else(expected)?.trim().parse().map_err(|_| expected())?;
    if (0.0..=100.0).contains(&share) {
        Ok((share / 100.0 * f64::from(MILLION)).round() as u32)
    } else {
        Err(expected())
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    let expected = || format!("{text:?} is no rate: write it like 100Mb/s, with kb/s, Mb/s or Gb/s, or none");
    if text == "none" {
        return Ok(Rate(None));
    }
    let units = [("kb/s", 1_000), ("Mb/s", 1_000_000), ("Gb/s", 1_000_000_000)];
    let found = units.into_iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = found.ok_or_else(expected)?;
    let number: u64 = number.trim().parse().ok().filter(|number| *number > 0).ok_or_else(expected)?;
    number.checked_mul(bits).map(|bits| Rate(Some(bits))).ok_or_else(expected)
}

/// A round-trip time between two regions, like `fra-was=90ms`. Names may have hyphens of their own, so that the text alone does not
/// say which regions these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    names: String,
    time: Duration,
}

impl std::str::FromStr for RoundTrip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is no round-trip time between two regions: write fra-was=90ms");
        let (names, time) = text.split_once('=').filter(|(names, _)| names.contains('-')).ok_or_else(expected)?;
        let time = insula_types::definition::parse_duration(time).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { names: names.to_owned(), time })
    }
}

impl RoundTrip {
    /// The two regions.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not name two of these.
    pub(crate) fn between<'a>(&self, regions: &[&'a str]) -> Result<(&'a str, &'a str, Duration), Error> {
        let pairs = regions.iter().flat_map(|one| regions.iter().map(move |other| (*one, *other)));
        let named = |(one, other): &(&str, &str)| one != other && format!("{one}-{other}") == self.names;
        let found = pairs.into_iter().find(named);
        let (one, other) = found.ok_or_else(|| {
            Error::Invalid(format!(
                "{:?} names no two regions of this lab: there are {}",
                self.names,
                regions.join(", ")
            ))
        })?;
        Ok((one, other, self.time))
    }
}

impl Lab {
    /// Shapes the link between two regions, or a region and the services, both ways unless it is one way.
    ///
    /// # Errors
    /// [`Error::NotFound`] when one is no region of this lab; [`Error::Invalid`] when both are the same, or there is one region alone.
    pub fn link(&self, a: &str, b: &str, shape: LinkShape, is_one_way: bool) -> Result<(), Error> {
        self.change(|state| {
            let numbers = [state.region_number(a)?, state.region_number(b)?];
            if a == b {
                return Err(Error::Invalid(format!("{a} has no link to itself: a link is between two regions")));
            }
            if state.carrier.is_none() {
                return Err(Error::Invalid("a lab of one region has no links: make it with two of them".to_owned()));
            }
            if a == SERVICES || b == SERVICES {
                state.lead_services(*numbers.iter().min().unwrap_or(&SERVICES_NUMBER))?;
            }
            shape.change(state.shape_mut(a, b));
            if !is_one_way {
                shape.change(state.shape_mut(b, a));
            }
            tell(self.files(), state)
        })
    }
}

impl State {
    /// From a region's first link with the services on, they are as far from it as that says.
    fn lead_services(&self, region: u8) -> Result<(), Error> {
        let is_theirs = |link: &Link| [&link.from, &link.to].into_iter().any(|place| place == SERVICES);
        let of = |link: &Link| self.region_number(&link.from).ok().min(self.region_number(&link.to).ok());
        if self.links.iter().any(|link| is_theirs(link) && of(link) == Some(region)) {
            return Ok(());
        }
        self.router.map_or(Ok(()), |router| network::carry_services(router, region))
    }

    fn region_number(&self, region: &str) -> Result<u8, Error> {
        if region == SERVICES {
            return Ok(SERVICES_NUMBER);
        }
        let number = self.nodes.iter().find(|node| node.plan.region == region).map(|node| node.plan.region_number());
        number.ok_or_else(|| Error::NotFound(format!("{region:?} is no region of this lab")))
    }

    fn shape_mut(&mut self, from: &str, to: &str) -> &mut Shape {
        let at = self.links.iter().position(|link| link.from == from && link.to == to).unwrap_or_else(|| {
            self.links.push(Link { from: from.to_owned(), to: to.to_owned(), shape: Shape::default() });
            self.links.len() - 1
        });
        &mut self.links[at].shape
    }
}

/// Tells the carrier of all links; returns when they are in force.
fn tell(files: &Files, state: &State) -> Result<(), Error> {
    let way = |link: &Link| -> Result<(Way, Shape), Error> {
        Ok(((state.region_number(&link.from)?, state.region_number(&link.to)?), link.shape))
    };
    let shapes: Vec<_> = state.links.iter().map(way).collect::<Result<_, _>>()?;
    let what = || "shape the network between regions".to_owned();
    let mut stream = UnixStream::connect(files.carrier()).attempt(what)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).attempt(what)?;
    stream.write_all(&serde_json::to_vec(&shapes).attempt(what)?).attempt(what)?;
    stream.shutdown(Shutdown::Write).attempt(what)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).attempt(what)?;
    if said == DONE { Ok(()) } else { Err(Error::Command { command: what(), said: "it was not done".to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_losses_are_read() {
        assert_eq!(parse_rate("100Mb/s"), Ok(Rate(Some(100_000_000))));
        assert_eq!(parse_rate("none"), Ok(Rate(None)));
        for bad in ["100", "0Mb/s", "-1kb/s", "99999999999999Gb/s"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(["0%", "0.1%", "100%"].map(parse_loss), [Ok(0), Ok(1000), Ok(1_000_000)]);
        for bad in ["1", "101%", "-1%", "NaN%"] {
            assert!(parse_loss(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn round_trips_name_two_regions() {
        let between = |text: &str, regions: &[&str]| {
            text.parse::<RoundTrip>()
                .map_err(Error::Invalid)?
                .between(regions)
                .map(|(one, other, time)| format!("{one} {other} {}", time.as_millis()))
        };
        assert_eq!(between("fra-was=90ms", &["fra", "was"]).expect("two"), "fra was 90");
        assert_eq!(between("us-east-eu-west=90ms", &["eu-west", "us-east"]).expect("two"), "us-east eu-west 90");
        for bad in ["fra=90ms", "fra-was", "fra-was=soon", "fra-fra=1ms", "fra-nrt=90ms"] {
            assert!(between(bad, &["fra", "was"]).is_err(), "{bad}");
        }
    }
}
