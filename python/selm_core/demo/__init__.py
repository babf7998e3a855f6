"""`selm demo`: a real model, prompts and a judge, all offline."""
