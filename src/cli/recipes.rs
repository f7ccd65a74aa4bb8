//! Owns the pages and configurations of providers inside the program: the files of `docs/providers` and
//! `config/providers`, as they stand.
//!
//! Promises one source of truth: what `stagepost init` prints and writes is what the documentation says.

/// A provider's page and configuration.
pub(super) struct Recipe {
    /// As `verify.scheme` calls it.
    pub(super) name: &'static str,
    /// The page, Markdown.
    pub(super) page: &'static str,
    /// The configuration.
    pub(super) config: &'static str,
}

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        &[$(Recipe {
            name: $name,
            page: include_str!(concat!("../../docs/providers/", $name, ".md")),
            config: include_str!(concat!("../../config/providers/", $name, ".toml")),
        }),*]
    };
}

pub(super) const ALL: &[Recipe] = recipes![
    "aws-sns",
    "bitbucket",
    "calendly",
    "cloudevents",
    "discord",
    "docusign",
    "dropbox",
    "github",
    "gitlab",
    "gitlab-token",
    "google-calendar",
    "google-pubsub",
    "hubspot",
    "hubspot-v1",
    "hubspot-v2",
    "intercom",
    "jira",
    "linear",
    "mailgun",
    "meta",
    "ms-graph",
    "okta",
    "openai",
    "paddle",
    "pagerduty",
    "paypal",
    "postmark",
    "salesforce",
    "sendgrid",
    "shopify",
    "slack",
    "square",
    "standard-webhooks",
    "stripe",
    "svix",
    "telegram",
    "twilio",
    "twitch",
    "x",
    "zendesk",
    "zoom",
];

/// The recipe of this name.
pub(super) fn find(name: &str) -> Option<&'static Recipe> {
    ALL.iter().find(|recipe| recipe.name == name)
}

impl Recipe {
    /// What is to be done at the provider.
    pub(super) fn steps(&self) -> &'static str {
        let after = self.page.split_once("## What to do there\n\n").map_or("", |(_, after)| after);
        after.split("\n## ").next().unwrap_or_default().trim_end()
    }

    /// Where its events come in unless another path is asked for.
    pub(super) fn path(&self) -> String {
        format!("/hooks/{}", self.name)
    }

    /// The address that the page takes as an example.
    pub(super) fn example_url(&self) -> String {
        format!("https://hooks.example.com{}", self.path())
    }
}

/// The upstream's address in every configuration, with its quotation marks.
pub(super) const UPSTREAM: &str = "\"${APP:-http://127.0.0.1:3000}\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_has_a_recipe_with_what_init_replaces() {
        let names: Vec<&str> = ALL.iter().map(|recipe| recipe.name).collect();
        let mut presets: Vec<&str> = crate::preset::all().map(|preset| preset.name).collect();
        presets.sort_unstable();
        assert_eq!(names, presets);
        for recipe in ALL {
            let name = recipe.name;
            assert!(recipe.steps().starts_with("1. "), "{name}");
            assert_eq!(recipe.config.matches(UPSTREAM).count(), 1, "{name}");
            assert_eq!(recipe.config.matches(&format!("path = \"{}\"", recipe.path())).count(), 1, "{name}");
            let proof = &crate::preset::find(name).unwrap().proof;
            assert_eq!(recipe.config.contains("public_url"), proof.needs_public_url(), "{name}");
        }
    }
}
