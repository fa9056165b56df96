"""A trained model applied to scans as people hold them: from their files to maps on their own grid."""
