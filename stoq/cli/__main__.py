from stoq.cli.main import main

main()
