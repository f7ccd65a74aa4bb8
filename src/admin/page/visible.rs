//! Owns what becomes of characters that can't be seen, or that turn others round, in a finished page.
//!
//! Promises that no control character but line feed and tab, no bidirectional control and no invisible space of Unicode
//! leaves in a page: each is replaced by what it is called. Our own templates hold none of them.

/// The page with these characters made visible.
pub(super) fn visible(page: String) -> String {
    if !page.chars().any(is_hidden) {
        return page;
    }
    let mut shown = String::with_capacity(page.len() + 64);
    for letter in page.chars() {
        match u32::from(letter) {
            _ if !is_hidden(letter) => shown.push(letter),
            // Unicode has pictures of the old control characters.
            code @ 0..0x20 => shown.extend(char::from_u32(0x2400 + code)),
            0x7f => shown.push('\u{2421}'),
            code => shown.push_str(&format!("\u{27e8}U+{code:04X}\u{27e9}")),
        }
    }
    shown
}

/// Whether a character is not seen as what it is. Joiners are not among them: scripts and emoji are written with them.
pub(super) const fn is_hidden(letter: char) -> bool {
    match letter {
        '\n' | '\t' => false,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        // Arabic letter mark, Mongolian vowel separator, zero width space, marks, separators, embeddings, isolates.
        '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        // The soft hyphen, and what looks like no letter at all.
        '\u{ad}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_or_hides_is_named_and_everything_else_stays() {
        let shown = |text: &str| visible(text.to_owned());
        assert_eq!(shown("a\u{1b}[2J\0\r\u{7f}"), "a\u{241b}[2J\u{2400}\u{240d}\u{2421}");
        assert_eq!(shown("invoice\u{202e}fdp.exe\u{2066}"), "invoice⟨U+202E⟩fdp.exe⟨U+2066⟩");
        assert_eq!(shown("\u{9b}31m\u{200b}\u{feff}"), "⟨U+009B⟩31m⟨U+200B⟩⟨U+FEFF⟩");
        for same in ["two\nlines\tand a tab", "grün 東京 👩\u{200d}🚀 שלום"] {
            assert_eq!(shown(same), same);
        }
    }
}
