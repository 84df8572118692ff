"""What users call: actions, who may call them, and what they take."""
