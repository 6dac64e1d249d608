"""Are the records what they claim?"""
