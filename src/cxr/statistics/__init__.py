"""How far can a number be off?"""
