"""Private swarms: their authorities, certificates, invitations. Nothing of torrents, nothing of peers."""
