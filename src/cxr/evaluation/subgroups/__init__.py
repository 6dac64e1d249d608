"""For whom do the numbers hold?"""
