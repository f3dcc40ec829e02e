<?php
// A service that gives everything a service can give, and throws everything it can throw.
use React\Promise\Settled;

enum Suit: string
{
    case Hearts = 'hearts';
}

class Money implements JsonSerializable
{
    private $currency = 'EUR';

    public function jsonSerialize(): mixed
    {
        return ['amount' => 5.0, 'currency' => $this->currency];
    }
}

class Demo
{
    public $shown = ['list' => [1, 2.0]];
    protected $hidden = 'hidden';

    public function echo(...$arguments) { return $arguments; }
    public function types(...$arguments) { return array_map('get_debug_type', $arguments); }
    public function keys(array $map) { return array_map(fn ($key) => gettype($key) . ' ' . $key, array_keys($map)); }
    public function dump(array $values) { return array_map(fn ($value) => var_export($value, true), $values); }
    public function pair($first, $second) { return [$first, $second]; }
    public function integer(int $number) { return $number; }
    public function nothing() {}
    public function bytes() { return "\xff\x00\xfe"; }
    public function nested() { return ['a' => [1, [2.5, null]], 7 => ['x' => true], 'none' => []]; }
    public function money() { return [new Money(), Suit::Hearts]; }
    public function itself() { return $this; }
    public function standard() { return (object) ['a' => 1, 'b' => (object) ['c' => 2]]; }
    public function date() { return new DateTime('2024-02-03 04:05:06 UTC'); }
    public function values() { yield 1; yield 'two'; yield ['three' => 3]; }
    public function broken() { yield 1; throw new DomainException('midway', 9); }
    public function emptyValues() { yield from []; }
    public function later($value) { return new Settled(true, $value); }
    public function laterValues() { return new Settled(true, $this->values()); }
    public function never() { return new Settled(false, new LogicException('too late', 3)); }
    public function odd() { return new Settled(false, 'no exception'); }
    public function resource() { return [STDIN]; }
    public function closure() { return ['inside' => fn () => 1]; }
    public function generatorInside() { return [$this->values()]; }
    public function promiseInside() { return [$this->later(1)]; }
    public function infinite() { return ['a' => INF]; }
    public function infiniteObject() { return (object) ['a' => INF]; }
    public function huge() { return str_repeat('x', 2 << 20); }
    public function many() { return array_fill(0, 70000, null); }
    public function nearlyHuge() { return str_repeat('x', 1 << 19); }
    public function deep(int $levels) { $deep = 1; while ($levels-- > 0) { $deep = [$deep]; } return $deep; }
    public function endless() { $endless = []; $endless[] = &$endless; return $endless; }
    public function holdsClosure() { $this->fail(fn () => 1); }
    public function fail($argument) { throw new Holder('cannot be serialized', $argument); }
    public function error() { return strlen([]); }
    public function anonymous() { throw new class ('nameless', 4) extends Exception {}; }
    public function textCode() { throw new TextCode('as databases do'); }
    public function longMessage() { throw new Exception(str_repeat('x', 3 << 20)); }
}

class Holder extends Exception
{
    public function __construct($message, public $held)
    {
        parent::__construct($message, 5);
    }
}

class TextCode extends Exception
{
    protected $code = '42S02';
}
