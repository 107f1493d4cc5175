//! Names in the zone: which are ours to hold, what says so, and how Route 53 writes them.

/// The gateway's domain and the names that come from it.
#[derive(Clone, Debug)]
pub(super) struct Names {
    domain: String,
    mark: String,
    wildcard: String,
}

/// Before a host's name: where its record of ownership is.
const OWNERSHIP: &str = "_nebula.";
/// Before the domain: where the wildcard's record of ownership is. A label below `*` would be no wildcard.
const WILDCARD_OWNERSHIP: &str = "_nebula-wildcard.";

impl Names {
    /// `domain` is in lower case and has no dot at the end.
    pub(super) fn new(domain: &str) -> Self {
        Self {
            domain: domain.to_owned(),
            mark: format!("\"heritage=nebula,domain={domain}\""),
            wildcard: format!("*.{domain}"),
        }
    }

    /// The gateway's domain.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// `*.domain`.
    pub(super) fn wildcard(&self) -> &str {
        &self.wildcard
    }

    /// The value of a TXT record that says that a name is ours, in quotation marks as Route 53 wants it.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether the name is the domain or below it.
    pub(super) fn covers(&self, name: &str) -> bool {
        name.strip_suffix(self.domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// Where the TXT record for a host is.
    pub(super) fn ownership(&self, host: &str) -> String {
        if host == self.wildcard {
            format!("{WILDCARD_OWNERSHIP}{}", self.domain)
        } else {
            format!("{OWNERSHIP}{host}")
        }
    }

    /// The host whose TXT record has this name.
    pub(super) fn owned_host(&self, name: &str) -> Option<String> {
        if let Some(host) = name.strip_prefix(OWNERSHIP) {
            return self.covers(host).then(|| host.to_owned());
        }
        let domain = name.strip_prefix(WILDCARD_OWNERSHIP)?;
        (domain == self.domain).then(|| self.wildcard.clone())
    }

    /// Whether a listing that has come to `name` has left behind everything below the domain. Names are listed in
    /// the order of their labels, the last one first.
    pub(super) fn is_past(&self, name: &str) -> bool {
        !self.covers(name) && name.rsplit('.').gt(self.domain.rsplit('.'))
    }
}

/// A name as Route 53 lists it (`\052.example.com.`) as we write it (`*.example.com`). Other escapes stay: a name
/// of ours has none.
pub(super) fn from_listed(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().replace("\\052", "*")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ownership_has_a_name_of_its_own_for_each_host() {
        let names = Names::new("gw.example.com");
        for (host, txt) in [
            ("gw.example.com", "_nebula.gw.example.com"),
            ("0a1b2c3d.gw.example.com", "_nebula.0a1b2c3d.gw.example.com"),
            ("*.gw.example.com", "_nebula-wildcard.gw.example.com"),
        ] {
            assert_eq!(names.ownership(host), txt);
            assert_eq!(names.owned_host(txt).as_deref(), Some(host));
        }
        for foreign in [
            "_nebula.example.com",
            "_nebula.xgw.example.com",
            "_nebula-wildcard.a.gw.example.com",
            "_acme-challenge.gw.example.com",
            "gw.example.com",
            "_nebula",
            "",
        ] {
            assert_eq!(names.owned_host(foreign), None, "{foreign}");
        }
        assert_eq!(names.mark(), "\"heritage=nebula,domain=gw.example.com\"");
    }

    #[test]
    fn names_are_read_as_route_53_lists_them() {
        for (listed, read) in [
            ("\\052.gw.example.com.", "*.gw.example.com"),
            ("A.Example.COM.", "a.example.com"),
            ("a\\056b.example.com.", "a\\056b.example.com"),
            ("bare", "bare"),
            ("", ""),
        ] {
            assert_eq!(from_listed(listed), read);
        }
    }

    #[test]
    fn a_listing_ends_behind_the_domain() {
        let names = Names::new("gw.example.com");
        for (name, covered, past) in [
            ("gw.example.com", true, false),
            ("*.gw.example.com", true, false),
            ("a.b.gw.example.com", true, false),
            ("example.com", false, false),
            ("fw.example.com", false, false),
            ("zz.fw.example.com", false, false),
            ("hw.example.com", false, true),
            ("xgw.example.com", false, true),
            ("gw.example.net", false, true),
        ] {
            assert_eq!((names.covers(name), names.is_past(name)), (covered, past), "{name}");
        }
    }

    proptest! {
        #[test]
        fn sorted_names_are_below_the_domain_in_one_run(
            mut listed in proptest::collection::vec("([a-c]\\.){0,3}(gw|ga|gz)\\.(c|d)", 0..40)
        ) {
            let names = Names::new("gw.c");
            listed.sort_by(|one, other| one.rsplit('.').cmp(other.rsplit('.')));
            let end = listed.iter().position(|name| names.is_past(name)).unwrap_or(listed.len());
            prop_assert!(listed[end..].iter().all(|name| !names.covers(name)));
        }
    }
}
